"""Byte offsets of the values of a shard: asked of HDF5, which takes milliseconds, or read from the catalog.

The catalog keeps int64 values, compressed by zlib and followed by the xxh3_64 of the shard's number and of them:

    rows, byte offset of /pooled, size of the file, bytes up to the end of its settings and its first value,
    the xxh3_64 of the gallery's settings and of these bytes
    for each level of /maps the first row's byte offset, then for every other row its distance from the row before
    unless the maps are float16: the name of their codec, ASCII, filled up with zeros to 32 bytes

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

from .codecs import DEFAULT, NAMES, Codec, codec_named, map_shapes
from .files import open_regular
from .hdf5 import array, dataset
from .rows import LocalFile, RowsFile

BEYOND = 1 << 62  # bytes; larger than any file
HEADER = 5  # values before the offsets
MOST_ROWS = 1 << 20  # of a shard
SETTINGS_WITHIN = 1 << 16  # bytes at the beginning of a file that hold its settings
NAME_BYTES = 32  # of a codec
SEAL = 8  # bytes of the digest at the end


@dataclass(frozen=True)
class ShardLayout:
    """Byte offsets of the values of a shard in its file."""

    rows: int
    pooled: int  # byte offset
    maps: list[np.ndarray]  # of each level: int64 [rows], byte offsets
    settings: str  # JSON; the settings that it was built with
    codec: str = DEFAULT  # of the maps

    @classmethod
    def read(cls, source: Path | RowsFile, settings: ExtractionSettings) -> "ShardLayout":
        """Read the layout of a file. Raises what h5py raises."""
        with (LocalFile(source) if isinstance(source, Path) else source).opened() as file:
            pooled, offset = array(file, "pooled", "<f4", 2)
            rows: int = pooled.shape[0]
            maps = [dataset(file, f"maps/{level}") for level in range(len(settings.level_shapes))]
            codec = _codec(file, maps, map_shapes(settings))
            return cls(rows, offset, [_row_offsets(level, rows) for level in maps], _text(file, "settings"), codec)

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
            codec = codec_named(rest.tobytes().rstrip(b"\0").decode() or DEFAULT).name
            plausible = min(rows, pooled, begin, int(maps.min())) >= 0 and max(pooled, begin, int(maps.max())) <= size
            same = plausible and (path is None or _fingerprint(path, begin, settings) == (size, digest))
        except (OSError, ValueError, zlib.error):  # opening the file will raise what is wrong
            return None
        return cls(rows, pooled, list(maps), settings.to_json(), codec) if same else None

    def equals(self, other: "ShardLayout") -> bool:
        """Return whether both layouts are the same."""
        facts = [(layout.rows, layout.pooled, layout.settings, layout.codec) for layout in (self, other)]
        return facts[0] == facts[1] and all(map(np.array_equal, self.maps, other.maps))

    def kept(self, shard: int, path: Path, settings: ExtractionSettings) -> bytes | None:
        """Return the bytes to keep of this layout; None if it is damaged, so that HDF5 reads it every time."""
        offsets = np.array(self.maps, np.int64)  # [levels, rows]
        with open(open_regular(path), "rb") as file:
            start = file.read(SETTINGS_WITHIN).find(settings.to_json().encode())
        if offsets.min() < 0 or start < 0 or self.settings != settings.to_json():
            return None
        begin = max(start + len(self.settings.encode()), min(self.pooled, int(offsets.min())))
        size, digest = _fingerprint(path, begin, settings)
        values = np.array([self.rows, self.pooled, size, begin, digest, *np.diff(offsets, prepend=0).flat], "<i8")
        codec = b"" if self.codec == DEFAULT else self.codec.encode().ljust(NAME_BYTES, b"\0")
        packed = zlib.compress(values.tobytes() + codec)
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
    data = unpacking.decompress(packed, 8 * (HEADER + levels * MOST_ROWS) + NAME_BYTES)
    if not unpacking.eof:
        raise ValueError("it is longer than that of any shard")
    return data


def _seal(shard: int, packed: bytes) -> bytes:
    return xxhash.xxh3_64_digest(shard.to_bytes(SEAL) + packed)


def _text(of: h5py.File | h5py.Dataset, name: str) -> str:
    """Return an attribute; empty where it is not there or damaged."""
    try:
        return str(of.attrs[name])
    except Exception:  # h5py raises exceptions of any kind on damaged files
        return ""


def _codec(file: h5py.File, maps: Sequence[h5py.Dataset], shapes: Sequence[tuple[int, int]]) -> str:
    """Return the name of the codec of a shard's maps: one that the file states, and that its datasets fit.

    The file and each dataset state it, so a damaged attribute costs no image. Where none does, the datasets tell.
    Raises ValueError for a codec that this version does not know, and for datasets that no codec makes.
    """
    stated = [name for name in (_text(file, "maps"), *(_text(level, "codec") for level in maps)) if name]
    known = [name for name in stated if name in NAMES]
    if stated and not known:
        codec_named(stated[0])
    for name in known or NAMES:
        if all(_fits(level, codec_named(name), shape) for level, shape in zip(maps, shapes, strict=True)):
            return name
    raise ValueError(
        f"maps are not what {' or '.join(dict.fromkeys(known or NAMES))} makes of {list(map(list, shapes))}"
    )


def _fits(maps: h5py.Dataset, codec: Codec, shape: tuple[int, int]) -> bool:
    """Return whether a dataset may hold what a codec makes of maps of this shape, [P, C]."""
    try:
        if maps.dtype != np.uint8:
            return codec.name == DEFAULT
        row = codec.stored_shape(*shape)
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
