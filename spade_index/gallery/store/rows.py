"""Rows of arrays that stay in their files: read, never mapped.

A page of a mapped file that another program truncates ends the process at the next access; a read says that it is
short.
"""

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np

from spade_index.errors import GalleryDamaged, StorageError

from .files import open_regular
from .hdf5 import Readable, opened
from .native import native_rows


class RowsFile(Readable, Protocol):
    """A file of rows."""

    @property
    def path(self) -> Path | str:
        """As errors name it."""

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Prepare for these ranges of offset and length to be read one by one. Raises GalleryError."""

    def opened(self) -> AbstractContextManager[h5py.File]:
        """Open it with HDF5. Raises OSError, and what h5py raises."""


class LocalFile:
    """A file on this machine; it stays readable, the same one, when its name is removed or given to another."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises OSError."""
        self._fd = -1
        self.path = path
        self._fd = open_regular(path)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    @property
    def descriptor(self) -> int:
        """The system's number of the open file."""
        return self._fd

    @property
    def size(self) -> int:
        """Its bytes."""
        return os.fstat(self._fd).st_size

    def read(self, out: memoryview, offset: int) -> bool:
        """Fill `out` from a byte offset; return False if the file ends before. Raises OSError."""
        while (count := os.preadv(self._fd, [out], offset)) < len(out):  # at most 2 GiB at a time
            if not count:
                return False
            out, offset = out[count:], offset + count
        return True

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Do nothing: a read takes microseconds."""

    def expect_few(self) -> None:
        """Tell the system that rows are read here and there, so that it reads nothing around them."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_RANDOM)

    def opened(self) -> AbstractContextManager[h5py.File]:
        """Open it with HDF5. Raises OSError, and what h5py raises."""
        return opened(self)


def read_at(file: RowsFile, out: np.ndarray, offset: int) -> bool:
    """Read a contiguous array from a file; return False if the file ends before. Raises what `RowsFile.read` does."""
    return not out.size or file.read(memoryview(out).cast("B"), offset)


def read_rows(file: RowsFile, out: np.ndarray, rows: np.ndarray, offset: int) -> bool:
    """Read rows int64 [n] of an array that begins at `offset` into `out` [n, ...]; see `read_at`."""
    if not out.size:
        return True
    size, target = out[0].nbytes, memoryview(out).cast("B")
    starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)  # of runs of rows that follow each other
    places = list(zip(starts.tolist(), [*starts[1:].tolist(), len(rows)], rows[starts].tolist(), strict=True))
    file.expect((offset + size * row, size * (end - start)) for start, end, row in places)
    return all(file.read(target[size * start : size * end], offset + size * row) for start, end, row in places)


class FileRows:
    """An array in a file; `rows[index]` reads some of its rows, as numpy would select them."""

    def __init__(self, file: RowsFile, dtype: str, offset: int, shape: tuple[int, ...], remedy: str) -> None:
        """Read from a file, whose array begins at `offset`; errors name the `remedy`."""
        self.path = file.path
        self.dtype = np.dtype(dtype)
        self.offset = offset
        self.shape = shape
        self._remedy = remedy
        self._file = file

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        """The number of values."""
        return int(np.prod(self.shape))

    def expect_few(self) -> None:
        """Tell the system that rows are read here and there, so that it reads nothing around them."""
        if isinstance(self._file, LocalFile):
            self._file.expect_few()

    def distances(self, rows: np.ndarray, query: np.ndarray) -> np.ndarray | None:
        """Return the squared distances float32 [n] of these rows, int64 [n], to a query float32 [D].

        None where compiled functions cannot do that: the file is elsewhere, or what they read is not as it should be.
        """
        if not isinstance(self._file, LocalFile) or (native := native_rows()) is None or query.shape != self.shape[1:]:
            return None
        found: np.ndarray | None = native.distances_to_rows(self._file.descriptor, self.offset, rows, query)
        return found

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return these rows, int64 [n], none negative. Raises GalleryDamaged if the file is truncated, StorageError."""
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        try:
            whole = read_rows(self._file, out, rows, self.offset)
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be read ({error.strerror})") from error
        if not whole:
            raise GalleryDamaged(f"{self.path}: truncated: {self._remedy}")
        return out

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
        rows = np.arange(len(self))[index]
        return self.take(rows) if rows.ndim else self.take(rows[None])[0]

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        return self[:]
