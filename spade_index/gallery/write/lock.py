"""The lock of a gallery's one writer, which ends with its process."""

import fcntl
import os
from pathlib import Path

from spade_index.errors import GalleryLocked

LOCK = "writer.lock"


class WriterLock:
    """The exclusive lock on a gallery's writer.lock, which names the process that holds it."""

    def __init__(self, gallery: Path) -> None:
        self._gallery = gallery
        self._fd = -1

    def take(self) -> None:
        """Take the lock, if it is not held already. Raises GalleryLocked, OSError."""
        if self._fd >= 0:
            return
        self._fd = os.open(self._gallery / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(self._fd, 32, 0).decode(errors="replace").strip() or "unknown"
            raise GalleryLocked(
                f"{self._gallery}: another process (pid {owner}) is writing to it: wait until it is done"
            ) from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
