"""The lock of a gallery's one writer, which ends with its process.

    GALLERY/writer.lock    PID [SHARD]    the writer, and the shard from which on it is writing new ones

A writer that was killed leaves the number there: from it the next one knows which shards no commit names yet.
"""

import errno
import fcntl
import os
import stat
from pathlib import Path

from spade_index.errors import GalleryLocked, StorageError
from spade_index.gallery.store.files import write_at

LOCK = "writer.lock"
SIZE = 64  # bytes that are read of it
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


class WriterLock:
    """The exclusive lock on a gallery's writer.lock, which names the process that holds it."""

    def __init__(self, gallery: Path) -> None:
        self._gallery = gallery
        self._fd = -1
        self.unfinished: int | None = (
            None  # the shard from which on this writer, or one that was killed, writes new ones
        )

    def take(self) -> None:
        """Take the lock, if it is not held already. Raises GalleryLocked, StorageError, OSError."""
        if self._fd >= 0:
            return
        self._fd = os.open(self._gallery / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        if os.fstat(self._fd).st_nlink > 1 or not stat.S_ISREG(os.fstat(self._fd).st_mode):
            self.release()
            raise StorageError(f"{self._gallery / LOCK}: is not a file of its own: delete it while no writer runs")
        words = os.pread(self._fd, SIZE, 0).decode("ascii", "replace").split()
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise GalleryLocked(
                f"{self._gallery}: another process (pid {words[0] if words else 'unknown'}) is writing to it: "
                "wait until it is done"
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            raise StorageError(
                f"{self._gallery}: its file system has no locks ({error.strerror}), so two processes could write at a "
                "time: mount it with locks, or write the gallery on a disk of this machine and copy it there"
            ) from error
        words = os.pread(self._fd, SIZE, 0).decode("ascii", "replace").split()
        self.note(int(words[1]) if len(words) == 2 and words[1].isdecimal() else None)

    def require_own(self) -> None:
        """Raise StorageError unless the folder is still the one that was locked: another may have its name by now."""
        try:
            own = os.path.samestat(os.stat(self._gallery / LOCK, follow_symlinks=False), os.fstat(self._fd))
        except OSError:  # it is gone
            own = False
        if not own:
            raise StorageError(
                f"{self._gallery}: another folder has its name, or it is gone, since it was opened: nothing more is "
                "written; what was committed is where it was moved to"
            )

    def note(self, shard: int | None) -> None:
        """Note that shards from this number on are being written, or that none are. Raises OSError."""
        text = f"{os.getpid()}\n" if shard is None else f"{os.getpid()} {shard}\n"
        write_at(self._fd, text.ljust(SIZE - 1).encode() + b"\n", 0)  # in one write, whatever was there
        self.unfinished = shard

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
