"""Where in a shard's file its values lie: asked of HDF5, which takes milliseconds, or recalled from the catalog.

What the catalog keeps of a shard are int64 values, zlib's, followed by the xxh3_64 of the shard's number and of them:

    rows, byte offset of /pooled, size of the file, bytes up to its settings and its first value,
    the xxh3_64 of the gallery's settings and of these bytes
    for each level of /maps the first row's byte offset, then for every other row how far it is from the row before

It is believed if it is whole, and if the file still has that size and begins with these bytes, which hold its settings
and where HDF5 begins to look for values; else HDF5 is asked. `verify` compares it with what HDF5 says.
"""

import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import xxhash

from spade_index.settings import ExtractionSettings

BEYOND = 1 << 62  # bytes; further than any file goes
FACTS = 5  # values before the offsets
WITHIN = 1 << 16  # bytes at the beginning of a file, among which its settings are
SEAL = 8  # bytes of the digest at the end


@dataclass(frozen=True)
class ShardLayout:
    """Where in its file a shard's values lie."""

    rows: int
    pooled: int  # byte offset
    maps: list[np.ndarray]  # of each level: int64 [rows], byte offsets
    settings: str  # JSON; what it was built with

    @classmethod
    def read(cls, path: Path, settings: ExtractionSettings) -> "ShardLayout":
        """Of a file. Raises what h5py raises."""
        with h5py.File(path, "r") as file:
            rows: int = file["pooled"].shape[0]
            maps = [_row_offsets(file[f"maps/{level}"], rows) for level in range(len(settings.level_shapes))]
            return cls(rows, file["pooled"].id.get_offset(), maps, _settings(file))

    @classmethod
    def recall(cls, kept: bytes, shard: int, path: Path, settings: ExtractionSettings) -> "ShardLayout | None":
        """What was kept of a shard, if that is whole and the file looks as it did then; else None."""
        if kept[-SEAL:] != _seal(shard, kept[:-SEAL]):
            return None
        try:
            values = np.frombuffer(zlib.decompress(kept[:-SEAL]), "<i8")
            rows, pooled, size, begin, digest = map(int, values[:FACTS])
            maps = values[FACTS:].reshape(len(settings.level_shapes), rows).cumsum(1)
            same = _looks(path, begin, settings) == (size, digest)
        except (OSError, ValueError, zlib.error):  # who opens the file is told
            return None
        return cls(rows, pooled, list(maps), settings.to_json()) if same else None

    def equals(self, other: "ShardLayout") -> bool:
        """Whether everything is the same."""
        facts = [(layout.rows, layout.pooled, layout.settings) for layout in (self, other)]
        return facts[0] == facts[1] and all(map(np.array_equal, self.maps, other.maps))

    def kept(self, shard: int, path: Path, settings: ExtractionSettings) -> bytes | None:
        """What to keep of it; None if something is wrong with it, so that HDF5 is asked every time."""
        offsets = np.array(self.maps, np.int64)  # [levels, rows]
        with open(path, "rb") as file:
            stated = file.read(WITHIN).find(settings.to_json().encode())
        if offsets.min() < 0 or stated < 0 or self.settings != settings.to_json():
            return None
        begin = max(stated + len(self.settings.encode()), min(self.pooled, int(offsets.min())))
        size, digest = _looks(path, begin, settings)
        values = np.array([self.rows, self.pooled, size, begin, digest, *np.diff(offsets, prepend=0).flat], "<i8")
        packed = zlib.compress(values.tobytes())
        return packed + _seal(shard, packed)


def layout_to_keep(shard: int, path: Path, settings: ExtractionSettings) -> bytes | None:
    """What to keep of a shard that is on disk, or None."""
    try:
        return ShardLayout.read(path, settings).kept(shard, path, settings)
    except Exception:  # h5py raises whatever it comes to; who reads the shard is told
        return None


def _looks(path: Path, begin: int, settings: ExtractionSettings) -> tuple[int, int]:
    """A file's size, and the digest of the settings that it should have and of so many bytes at its beginning."""
    with open(path, "rb", buffering=0) as file:
        digest = xxhash.xxh3_64_digest(settings.to_json().encode() + file.read(begin))
        return os.fstat(file.fileno()).st_size, int.from_bytes(digest, signed=True)


def _seal(shard: int, packed: bytes) -> bytes:
    return xxhash.xxh3_64_digest(shard.to_bytes(SEAL) + packed)


def _settings(file: h5py.File) -> str:
    try:
        return str(file.attrs["settings"])
    except Exception:  # h5py raises whatever it comes to in a damaged file
        return ""


def _row_offsets(dataset: h5py.Dataset, rows: int) -> np.ndarray:
    """Byte offset of every row's chunk, int64 [n]; -1 where that is damaged, which costs no other row."""
    offsets = np.full(rows, -1, np.int64)

    def note(chunk: h5py.h5d.StoreInfo) -> None:
        if (row := chunk.chunk_offset[0]) < rows:
            offsets[row] = min(chunk.byte_offset, BEYOND)

    dataset.id.chunk_iter(note)
    return offsets
