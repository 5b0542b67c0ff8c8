"""A file that HDF5 writes to, and whose writes never fail from HDF5's point of view.

HDF5 is unreliable once a write has failed: it tries to close the same objects again and again, prints errors, and may
end the process. So no error reaches it: the first one is kept, nothing is written after it, and `checked` raises it.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .files import create, write_at


class Sink(io.RawIOBase):
    """A file object for `h5py.File`."""

    def __init__(self, path: Path) -> None:
        """Create the file, in place of one that is there. Raises OSError."""
        self._file = create(path)
        self._position = 0
        self._error: OSError | None = None

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Let HDF5 write inside; then raise the first error, in place of any that HDF5 made of it."""
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
        """Write all of `data`, or keep the error."""
        left = memoryview(data).cast("B")
        size = len(left)
        if self._error is None:
            try:
                write_at(self._file.fileno(), left, self._position)
            except OSError as error:
                self._error = error
        self._position += size
        return size

    def readinto(self, buffer: Any, /) -> int:
        """Read what HDF5 wrote; zeros where it was not written."""
        target = memoryview(buffer).cast("B")
        done = os.preadv(self._file.fileno(), [target], self._position)
        target[done:] = bytes(len(target) - done)
        self._position += len(target)
        return len(target)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move as a file does."""
        if whence == os.SEEK_SET:
            self._position = offset
        else:
            self._position = offset + (
                self._position if whence == os.SEEK_CUR else os.fstat(self._file.fileno()).st_size
            )
        return self._position

    def tell(self) -> int:
        """Return the position as a file does."""
        return self._position

    def truncate(self, size: int | None = None, /) -> int:
        """Truncate as a file does, or keep the error."""
        try:
            if self._error is None:
                self._file.truncate(size)
        except OSError as error:
            self._error = error
        return size or 0

    def flush(self) -> None:
        """Do nothing: no write is buffered."""
