"""One immutable HDF5 file of features: written once as images stream in, then only read.

    attrs       format="spade-index", version, settings=<JSON>
    /id         [n]             UTF-8
    /pooled     [n, D]          float32, contiguous
    /maps/0     [n, H0*W0, C0]  float16, one image per chunk, no filter, raster order; level 0 is the finest
    /maps/1     ...
    /thumbnail  [n]             uint8, variable length: a small JPEG
    /checksum   [n]             uint64: xxh3_64 of the row's id, pooled descriptor, maps and thumbnail

An unfiltered chunk of one image is a plain byte range, so rows are read past HDF5's global lock with `os.preadv`.
"""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
import xxhash

from spade_index.errors import GalleryDamaged, GalleryError, StorageError
from spade_index.settings import ExtractionSettings

from .layout import ShardLayout
from .sink import Sink

FORMAT = "spade-index"
VERSION = 1
PAGE = 4096  # bytes; rows start on pages
NOT_DAMAGE = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
BLOCK = 1 << 20  # bytes read at a time when a whole file is digested; they stay in a core's cache


class ShardWriter:
    """Writes one shard under a temporary name; `commit` makes it durable and gives it its name."""

    def __init__(self, path: Path, settings: ExtractionSettings) -> None:
        self.path = path
        self._temporary = path.with_suffix(".h5.tmp")
        self._rows: list[tuple[str, np.ndarray, bytes, int]] = []  # id, pooled, thumbnail, checksum
        self._sink = Sink(self._temporary)
        self._file = h5py.File(self._sink, "w", alignment_threshold=PAGE, alignment_interval=PAGE)
        self._file.attrs["format"] = FORMAT
        self._file.attrs["version"] = VERSION
        self._file.attrs["settings"] = settings.to_json()
        self._room = 0  # rows that the maps' datasets have
        self._maps = []
        for level, (channels, height, width) in enumerate(settings.level_shapes):
            row = (height * width, channels)
            self._maps.append(
                self._file.create_dataset(
                    f"maps/{level}", (0, *row), "<f2", maxshape=(None, *row), chunks=(1, *row), fillvalue=None
                )
            )

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, id: str, pooled: np.ndarray, maps: list[np.ndarray], thumbnail: bytes) -> None:
        """Add one image: pooled float32 [D], maps float16 [H*W, C] for each level."""
        row = len(self)
        with self._sink.checked():
            if row == self._room:
                self._resize(max(64, 2 * row))
            for dataset, values in zip(self._maps, maps, strict=True):
                dataset.id.write_direct_chunk((row, 0, 0), np.ascontiguousarray(values, "<f2"))
        pooled = np.ascontiguousarray(pooled, "<f4")
        self._rows.append((id, pooled, thumbnail, row_checksum(id, pooled, maps, thumbnail)))

    def commit(self) -> str:
        """Write what is left, flush to disk, rename; returns the digest of the file's bytes. Raises OSError."""
        with self._sink.checked():
            self._write_columns()
        self._sink.close()
        return make_durable(self._temporary, self.path)

    def _resize(self, rows: int) -> None:
        for dataset in self._maps:
            dataset.resize(rows, axis=0)
        self._room = rows

    def _write_columns(self) -> None:
        self._resize(len(self))  # an `append` that was interrupted does not count
        ids, pooled, thumbnails, checksums = zip(*self._rows, strict=True)
        self._file.create_dataset("pooled", data=np.stack(pooled))
        self._file.create_dataset("id", data=ids, dtype=h5py.string_dtype())
        stored = self._file.create_dataset("thumbnail", (len(self),), h5py.vlen_dtype(np.uint8))
        values = np.empty(len(self), stored.dtype)
        for row, thumbnail in enumerate(thumbnails):
            values[row] = np.frombuffer(thumbnail, np.uint8)
        stored.id.write(h5py.h5s.ALL, h5py.h5s.ALL, values)  # at once: `stored[:]` takes equal lengths for a matrix
        self._file.create_dataset("checksum", data=np.array(checksums, "<u8"))
        self._file.close()

    def abandon(self) -> None:
        """Give up; nothing is left on disk."""
        with suppress(OSError, RuntimeError):
            self._file.close()
        self._sink.close()
        self._temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class Features:
    """What a shard holds of an image."""

    pooled: np.ndarray  # float32 [D]
    maps: list[np.ndarray]  # float16 [H*W, C] of each level
    thumbnail: bytes  # a JPEG


class Shard:
    """Reads one shard's rows."""

    def __init__(self, path: Path, settings: ExtractionSettings, layout: ShardLayout | None = None) -> None:
        """With its layout, if that is known already; else HDF5 is asked.

        Raises GalleryDamaged if the file is missing, truncated, or not a shard.
        """
        self.path = path
        self._fd = -1
        try:
            self.layout = layout or ShardLayout.read(path, settings)
            self.rows = self.layout.rows
            self._fd = os.open(path, os.O_RDONLY)  # stays readable when the name is removed
            self._dim = settings.pooled_dim
            if os.fstat(self._fd).st_size < self.layout.pooled + 4 * self.rows * self._dim:
                raise ValueError("truncated")
        except FileNotFoundError as error:
            raise GalleryDamaged(f"{path}: missing; {_remedy(path)}") from error
        except Exception as error:  # h5py raises whatever it comes to in a damaged file
            raise _unreadable(path, error) from error
        self._foreign = self.layout.settings != settings.to_json()
        self._row_shapes = [(height * width, channels) for channels, height, width in settings.level_shapes]

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    @cached_property
    def _pooled(self) -> np.ndarray:
        with os.fdopen(self._fd, "rb", closefd=False) as opened:
            return np.memmap(opened, "<f4", "r", self.layout.pooled, (self.rows, self._dim))

    def pooled(self) -> np.ndarray:
        """All pooled descriptors, float32 [n, D], mapped from the file. Raises GalleryDamaged."""
        self._require_own()
        return self._pooled

    def read_maps(self, row: int, out: list[np.ndarray]) -> None:
        """Read a row's maps into `out`, float16 [H*W, C] for each level. Raises GalleryDamaged."""
        self._require_own()
        self._read_maps(row, out)

    def _require_own(self) -> None:
        # What has a checksum is read all the same: a changed byte in the settings must not cost the images.
        if self._foreign:
            raise GalleryDamaged(f"{self.path}: was built with other settings than its gallery; {_remedy(self.path)}")

    def _read_maps(self, row: int, out: list[np.ndarray]) -> None:
        if not 0 <= row < self.rows:
            raise GalleryDamaged(f"{self.path}: has no row {row}; {_remedy(self.path)}")
        for offsets, values in zip(self.layout.maps, out, strict=True):
            offset = int(offsets[row])
            if offset < 0 or os.preadv(self._fd, [memoryview(values).cast("B")], offset) != values.nbytes:
                raise GalleryDamaged(f"{self.path}: truncated; {_remedy(self.path)}")

    def thumbnail(self, row: int) -> bytes:
        """A row's small JPEG."""
        try:
            with h5py.File(self.path, "r") as file:
                return file["thumbnail"][row].tobytes()
        except FileNotFoundError:
            raise
        except Exception as error:  # h5py raises whatever it comes to in a damaged file
            raise _unreadable(self.path, error) from error

    def read_whole(self, row: int, id: str) -> Features:
        """All of an image, if it is what was written. Raises GalleryDamaged if it is not."""
        found = self._checked(row)
        if found is None or found[0] != id:
            raise GalleryDamaged(f"{self.path}: image {id!r} is damaged; {_remedy(self.path)}")
        return found[1]

    def damaged_rows(self) -> list[int]:
        """Every row whose bytes do not match their checksum, or cannot be read at all."""
        return [row for row in range(self.rows) if self._checked(row) is None]

    def _checked(self, row: int) -> tuple[str, Features] | None:
        """Id and features of a row, if they match its checksum."""
        maps = [np.empty(shape, "<f2") for shape in self._row_shapes]
        try:
            self._read_maps(row, maps)
            with h5py.File(self.path, "r") as file:
                id, checksum = file["id"].asstr()[row], int(file["checksum"][row])
            features = Features(self._pooled[row], maps, self.thumbnail(row))
        except Exception as error:  # h5py raises whatever it comes to in a damaged file
            if isinstance(failure := _unreadable(self.path, error), StorageError):
                raise failure from error
            return None
        whole = row_checksum(id, features.pooled, maps, features.thumbnail) == checksum
        return (id, features) if whole else None


def is_finite(values: np.ndarray) -> bool:
    """Whether float16 values are numbers. What was added is; ten times as fast as numpy's."""
    # The exponents of infinities and NaNs are all ones, so as whole numbers they are the largest of either sign.
    return values.view(np.int16).max() < 0x7C00 and values.view(np.uint16).max() < 0xFC00


def row_checksum(id: str, pooled: np.ndarray, maps: list[np.ndarray], thumbnail: bytes) -> int:
    """xxh3_64 of a row's bytes."""
    digest = xxhash.xxh3_64(id.encode())
    digest.update(np.ascontiguousarray(pooled, "<f4"))
    for values in maps:
        digest.update(np.ascontiguousarray(values, "<f2"))
    digest.update(thumbnail)
    return digest.intdigest()


def file_digest(path: Path, progress: Callable[[int], None] = lambda count: None) -> str:
    """xxh3_128 of a file's bytes, in hexadecimal; `progress` is told of so many more."""
    digest = xxhash.xxh3_128()
    block = memoryview(bytearray(BLOCK))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(block[:count])
            progress(count)
    return digest.hexdigest()


def make_durable(temporary: Path, path: Path) -> str:
    """Flush a complete file to disk and give it its name, which it has from then on or not at all; its digest."""
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    digest = file_digest(temporary)
    os.rename(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return digest


def _unreadable(path: Path, error: Exception) -> GalleryError:
    """What to raise for an error that came of reading a shard: it is damaged, unless there is another reason."""
    if isinstance(error, GalleryError):
        return error
    reason = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in NOT_DAMAGE:
        return StorageError(f"{path}: cannot be read ({reason})")
    return GalleryDamaged(f"{path}: damaged shard ({reason}); {_remedy(path)}")


def _remedy(path: Path) -> str:
    gallery = path.parent.parent
    return f"restore it from a copy, or `spade-index verify {gallery} --repair` drops what is damaged"
