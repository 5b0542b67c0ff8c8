"""Which generations of a gallery are being read: from this a writer knows what may be deleted.

A generation ends whenever something falls out of use: an index that is replaced, shards whose images have moved,
snapshots that `compact` deletes. Its number is in the catalog, and a reader holds a shared lock on the file with the
number that it opened at:

    GALLERY/readers/4    empty; locked by the readers that may need what fell out of use since generation 4

What fell out of use is deleted by the next writer that finds no lock on an earlier generation. No reader can take
such a lock later: it reads the number again once it has its lock (`Gallery.at`).

A lock ends with the last copy of its file descriptor. A forked process inherits a copy, so what its parent read stays
while the child lives: that costs disk space, and nothing else. For the same reason a lock is never released by
LOCK_UN, which in a child would take it from the parent.
"""

import fcntl
import os
import re
import stat
from pathlib import Path

from spade_index.gallery.store.files import open_regular

FOLDER = "readers"
NUMBER = re.compile("0|[1-9][0-9]{0,18}")


class GenerationLock:
    """A shared lock on a generation, until it is garbage-collected."""

    def __init__(self, fd: int, generation: int) -> None:
        self._fd = fd
        self.generation = generation

    def __del__(self) -> None:
        os.close(self._fd)


def hold(gallery: Path, generation: int) -> GenerationLock | None:
    """Return a shared lock on a generation, or None if it cannot be locked.

    This happens in a gallery made before there were such locks, without the right to read the file, on a file system
    without locks, and while a writer finds out whether a generation that is over is being read.
    """
    try:
        lock = GenerationLock(open_regular(gallery / FOLDER / str(generation)), generation)
        fcntl.flock(lock._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return None
    return lock


def prepare(gallery: Path, generation: int) -> None:
    """Make a generation's file, unless it is there; a link in its place is replaced. Raises OSError."""
    (gallery / FOLDER).mkdir(exist_ok=True)
    path = gallery / FOLDER / str(generation)
    if path.is_symlink():
        path.unlink()
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644))


def earlier(gallery: Path, generation: int) -> list[Path]:
    """Return the files of the generations before one, the oldest first."""
    return [gallery / FOLDER / str(number) for number in _numbers(gallery) if number < generation]


def later(gallery: Path, generation: int) -> list[Path]:
    """Return the files of the generations after one, which were prepared and never began."""
    return [gallery / FOLDER / str(number) for number in _numbers(gallery) if number > generation]


def is_held(file: Path) -> bool:
    """Return whether a generation is being read."""
    fd = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _numbers(gallery: Path) -> list[int]:
    found = ((file, file.lstat()) for file in (gallery / FOLDER).glob("*") if NUMBER.fullmatch(file.name))
    return sorted(int(file.name) for file, status in found if stat.S_ISREG(status.st_mode) and not status.st_size)
