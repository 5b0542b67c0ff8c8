"""A file that HDF5 writes to and that never fails it.

HDF5 cannot be relied on once a write has failed: what it held is closed again and again, it prints, and it may end the
process. So it is never told. The first error is kept, what comes after it is not written, and `checked` raises it.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Sink(io.RawIOBase):
    """What `h5py.File` takes for a file. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115
        self._place = 0
        self._error: OSError | None = None

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Whatever HDF5 does inside; then the first error is raised, before any that HDF5 made of it."""
        try:
            yield
        finally:
            if self._error is not None:
                raise self._error

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()

    def write(self, data: Any, /) -> int:
        """All of it, or an error that is kept."""
        left = memoryview(data).cast("B")
        size = done = len(left)
        if self._error is None:
            try:
                done = os.pwrite(self._file.fileno(), left, self._place)
                while done < size:
                    done += os.pwrite(self._file.fileno(), left[done:], self._place + done)
            except OSError as error:
                self._error = error
        self._place += size
        return size

    def readinto(self, buffer: Any, /) -> int:
        """HDF5 reads what it wrote; where that is missing, zeros."""
        target = memoryview(buffer).cast("B")
        done = os.preadv(self._file.fileno(), [target], self._place)
        target[done:] = bytes(len(target) - done)
        self._place += len(target)
        return len(target)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As a file's."""
        if whence == os.SEEK_SET:
            self._place = offset
        else:
            self._place = offset + (self._place if whence == os.SEEK_CUR else os.fstat(self._file.fileno()).st_size)
        return self._place

    def tell(self) -> int:
        """As a file's."""
        return self._place

    def truncate(self, size: int | None = None, /) -> int:
        """As a file's, or an error that is kept."""
        try:
            if self._error is None:
                self._file.truncate(size)
        except OSError as error:
            self._error = error
        return size or 0

    def flush(self) -> None:
        """Nothing is held back."""
