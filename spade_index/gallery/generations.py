"""Which generations of a gallery are being read: by this a writer knows what may be deleted.

A generation ends whenever something falls out of use: an index that is replaced, shards whose images have moved,
snapshots that `compact` forgets. Its number is in the catalog, and a reader holds a shared lock on the file with the
number that it opened at:

    GALLERY/readers/4    empty; locked by those who may need what fell out of use since generation 4

What fell out of use is deleted by whoever writes when no lock on an earlier generation is held any more. Nobody can
come to hold one later: a reader looks at the number again once it has its lock (`Gallery.at`).

A lock ends with the last copy of its file descriptor. A process that is forked inherits one, so what its parent read
stays for as long as the child lives: that costs room, and nothing else. For the same reason a lock is never given up
by LOCK_UN, which in a child would take it from the parent.
"""

import fcntl
import os
from pathlib import Path

FOLDER = "readers"


class Reading:
    """A shared lock on a generation, until it is garbage-collected."""

    def __init__(self, fd: int, generation: int) -> None:
        self._fd = fd
        self.generation = generation

    def __del__(self) -> None:
        os.close(self._fd)


def hold(gallery: Path, generation: int) -> Reading | None:
    """A shared lock on a generation; None where there is none to be had.

    So it is in a gallery of before there were such locks, without the right to read its file, on a file system without
    locks, and while a writer finds out whether a generation that is over is being read.
    """
    try:
        reading = Reading(os.open(gallery / FOLDER / str(generation), os.O_RDONLY | os.O_CLOEXEC), generation)
        fcntl.flock(reading._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return None
    return reading


def prepare(gallery: Path, generation: int) -> None:
    """Make a generation's file, if it is not there yet. Raises OSError."""
    (gallery / FOLDER).mkdir(exist_ok=True)
    (gallery / FOLDER / str(generation)).touch()


def earlier(gallery: Path, generation: int) -> list[Path]:
    """The files of the generations before one, the oldest first."""
    return [gallery / FOLDER / str(number) for number in _generations(gallery) if number < generation]


def later(gallery: Path, generation: int) -> list[Path]:
    """The files of the generations after one, which were prepared and never began."""
    return [gallery / FOLDER / str(number) for number in _generations(gallery) if number > generation]


def _generations(gallery: Path) -> list[int]:
    return sorted(int(file.name) for file in (gallery / FOLDER).glob("*") if file.name.isdecimal())


def is_held(file: Path) -> bool:
    """Whether a generation is being read."""
    fd = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
