"""Byte offsets of the values of a shard: asked of HDF5, which takes milliseconds, or read from the catalog.

The catalog keeps int64 values, compressed by zlib and followed by the xxh3_64 of the shard's number and of them:

    rows, byte offset of /pooled, size of the file, bytes up to the end of its settings and its first value,
    the xxh3_64 of the gallery's settings and of these bytes
    for each level of /maps the first row's byte offset, then for every other row its distance from the row before;
        zeros for a level that is not stored
    unless the maps are float16 of all levels: how they are stored, ASCII, filled up with zeros to 32 bytes or more

A kept layout is used if it is whole, and if the file still has that size and begins with these bytes, which hold its
settings and where HDF5 begins to look for values. Otherwise HDF5 reads the layout. `verify` compares the two.
"""

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import xxhash

from spade_index.settings import ExtractionSettings

from .codecs import DEFAULT, NAMES, MapCodec, codec_named, map_shapes
from .files import open_regular
from .hdf5 import array, attribute, dataset, is_named
from .rows import LocalFile, RowsFile
from .storage import MapStorage

BEYOND = 1 << 62  # bytes; larger than any file
HEADER = 5  # values before the offsets
MOST_ROWS = 1 << 20  # of a shard
SETTINGS_WITHIN = 1 << 16  # bytes at the beginning of a file that hold its settings
NAME_BYTES = 32  # that names are filled up to, or to a multiple
MOST_NAME_BYTES = 1024
SEAL = 8  # bytes of the digest at the end


@dataclass(frozen=True)
class ShardLayout:
    """Byte offsets of the values of a shard in its file."""

    rows: int
    pooled: int  # byte offset
    maps: list[np.ndarray]  # of each level: int64 [rows], byte offsets; zeros where it is not stored
    settings: str  # JSON; the settings that it was built with
    storage: MapStorage = MapStorage.FLOAT16  # of the maps

    @classmethod
    def read(cls, source: Path | RowsFile, settings: ExtractionSettings) -> "ShardLayout":
        """Read the layout of a file. Raises what h5py raises."""
        with (LocalFile(source) if isinstance(source, Path) else source).opened() as file:
            pooled, offset = array(file, "pooled", "<f4", 2)
            rows: int = pooled.shape[0]
            storage, maps = _storage(file, settings)
            offsets = [_row_offsets(level, rows) if level else np.zeros(rows, np.int64) for level in maps]
            return cls(rows, offset, offsets, _text(file, "settings"), storage)

    @classmethod
    def recall(cls, kept: bytes, shard: int, path: Path | None, settings: ExtractionSettings) -> "ShardLayout | None":
        """Return the kept layout of a shard if it is whole and the file looks as it did then, or None.

        A `path` of None says that the file is known to be the one that was written.
        """
        if kept[-SEAL:] != _seal(shard, kept[:-SEAL]):
            return None
        try:
            values = np.frombuffer(_unpacked(kept[:-SEAL], len(settings.level_shapes)), "<i8")
            rows, pooled, size, begin, digest = map(int, values[:HEADER])
            offsets, rest = np.split(values[HEADER:], [len(settings.level_shapes) * rows])
            maps = offsets.reshape(len(settings.level_shapes), rows).cumsum(1)
            storage = MapStorage.named(rest.tobytes().rstrip(b"\0").decode() or DEFAULT)
            storage.levels_of(settings)
            plausible = min(rows, pooled, begin, int(maps.min())) >= 0 and max(pooled, begin, int(maps.max())) <= size
            same = plausible and (path is None or _fingerprint(path, begin, settings) == (size, digest))
        except (OSError, ValueError, zlib.error):  # opening the file will raise what is wrong
            return None
        return cls(rows, pooled, list(maps), settings.to_json(), storage) if same else None

    def equals(self, other: "ShardLayout") -> bool:
        """Return whether both layouts are the same."""
        facts = [(layout.rows, layout.pooled, layout.settings, layout.storage) for layout in (self, other)]
        return facts[0] == facts[1] and all(map(np.array_equal, self.maps, other.maps))

    def kept(self, shard: int, path: Path, settings: ExtractionSettings) -> bytes | None:
        """Return the bytes to keep of this layout; None if it is damaged, so that HDF5 reads it every time."""
        offsets = np.array(self.maps, np.int64)  # [levels, rows]
        with open(open_regular(path), "rb") as file:
            start = file.read(SETTINGS_WITHIN).find(settings.to_json().encode())
        if offsets.min() < 0 or start < 0 or self.settings != settings.to_json():
            return None
        first = int(offsets[list(self.storage.levels_of(settings))].min())
        begin = max(start + len(self.settings.encode()), min(self.pooled, first))
        size, digest = _fingerprint(path, begin, settings)
        values = np.array([self.rows, self.pooled, size, begin, digest, *np.diff(offsets, prepend=0).flat], "<i8")
        name = b"" if self.storage == MapStorage.FLOAT16 else self.storage.name.encode()
        name += bytes(-len(name) % NAME_BYTES)
        packed = zlib.compress(values.tobytes() + name)
        return packed + _seal(shard, packed)


def layout_to_keep(shard: int, path: Path, settings: ExtractionSettings) -> bytes | None:
    """Return the bytes to keep of the layout of a shard that is on disk, or None."""
    try:
        return ShardLayout.read(path, settings).kept(shard, path, settings)
    except Exception:  # h5py raises exceptions of any kind; reading the shard will raise what is wrong
        return None


def _fingerprint(path: Path, begin: int, settings: ExtractionSettings) -> tuple[int, int]:
    """Return a file's size, and the digest of the settings that it should have and of its first `begin` bytes."""
    with open(open_regular(path), "rb", buffering=0) as file:
        digest = xxhash.xxh3_64_digest(settings.to_json().encode() + file.read(begin))
        return os.fstat(file.fileno()).st_size, int.from_bytes(digest, signed=True)


def _unpacked(packed: bytes, levels: int) -> bytes:
    """Return the bytes of the values. Raises ValueError if they are more than any shard has, zlib.error."""
    unpacking = zlib.decompressobj()
    data = unpacking.decompress(packed, 8 * (HEADER + levels * MOST_ROWS) + MOST_NAME_BYTES)
    if not unpacking.eof:
        raise ValueError("it is longer than that of any shard")
    return data


def _seal(shard: int, packed: bytes) -> bytes:
    return xxhash.xxh3_64_digest(shard.to_bytes(SEAL) + packed)


def _text(of: h5py.File | h5py.Dataset, name: str) -> str:
    """Return an attribute; empty where it is not there or damaged."""
    try:
        return attribute(of, name)
    except Exception:  # h5py raises exceptions of any kind on damaged files
        return ""


def _storage(file: h5py.File, settings: ExtractionSettings) -> tuple[MapStorage, list[h5py.Dataset | None]]:
    """Return how a shard stores maps, as the file states it and its datasets fit, and these; None: not stored.

    The file and each dataset state it, so a damaged attribute costs no image. Where none does, the datasets of all
    levels tell. Raises ValueError for what this version does not know, and for datasets that nothing known makes.
    """
    shapes = map_shapes(settings)
    names = {level: f"maps/{level}" for level in range(len(shapes))}
    maps = {level: dataset(file, name) for level, name in names.items() if is_named(file, name)}
    stated = [name for of in (file, *maps.values()) if (name := _text(of, "maps" if of is file else "codec"))]
    known = _known(stated, settings) or [MapStorage(codec_named(name)) for name in NAMES]
    for storage in known:
        fits = tuple(maps) == storage.levels_of(settings) and all(
            _fits(of, storage.codec, level, shapes[level]) for level, of in maps.items()
        )
        if fits:
            return storage, [maps.get(level) for level in range(len(shapes))]
    any_of = " or ".join(storage.name for storage in known)
    raise ValueError(f"maps are not what {any_of} makes of {list(map(list, shapes))}")


def _known(stated: Sequence[str], settings: ExtractionSettings) -> list[MapStorage]:
    """Return what names state, each once. Raises ValueError if there are some, and none is known."""
    known: list[MapStorage] = []
    errors: list[ValueError] = []
    for name in dict.fromkeys(stated):
        try:
            storage = MapStorage.named(name)
            storage.levels_of(settings)
            known.append(storage)
        except ValueError as error:
            errors.append(error)
    if errors and not known:
        raise errors[0]
    return known


def _fits(maps: h5py.Dataset, codec: MapCodec, level: int, shape: tuple[int, int]) -> bool:
    """Return whether a dataset may hold what a codec makes of maps of this shape, [P, C]."""
    try:
        if maps.dtype != np.uint8:
            return codec.name == DEFAULT
        row = codec.of_level(level).stored_shape(*shape)
        return codec.name != DEFAULT and maps.shape[1:] == row and maps.chunks == (1, *row)
    except Exception:  # its description is damaged: rows have checksums
        return True


def _row_offsets(dataset: h5py.Dataset, rows: int) -> np.ndarray:
    """Return the byte offset of every row's chunk, int64 [n]; -1 for a damaged entry, which costs no other row."""
    offsets = np.full(rows, -1, np.int64)

    def note(chunk: h5py.h5d.StoreInfo) -> None:
        if (row := chunk.chunk_offset[0]) < rows:
            offsets[row] = min(chunk.byte_offset, BEYOND)

    dataset.id.chunk_iter(note)
    return offsets
