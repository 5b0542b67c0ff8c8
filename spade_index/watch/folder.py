"""Look for complete images in a folder, by its entries alone, so that network shares work as disks do.

An image is complete when two looks, `settle` seconds apart or more, find the same inode with the same size and time of
change. Its name may have changed between them: who writes under a temporary name and renames has it judged at once, if
the temporary file was seen for as long. Hidden files and folders are passed over, and links are not followed.
"""

import heapq
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256

from spade_index.images.files import changed_ns, has_image_suffix, is_regular

Identity = tuple[int, int, int, int]  # device, inode, size, mtime in ns


@dataclass(frozen=True, order=True)
class Arrival:
    """A file as one look found it; they sort by time of change, then name."""

    mtime_ns: int
    name: str  # path below the folder
    path: str
    size: int
    inode: int

    @property
    def id(self) -> str:
        """The stable id of its verdict: of path, size, time and inode, so that a file that changes has a new one."""
        text = f"{self.size} {self.mtime_ns} {self.inode} ".encode() + os.fsencode(self.path)
        return sha256(text).hexdigest()[:32]

    def is_unchanged(self) -> bool:
        """Return whether the file is still there, as it was found."""
        try:
            status = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        return (status.st_size, changed_ns(status), status.st_ino) == (self.size, self.mtime_ns, self.inode)


class Folder:
    """A folder that images arrive in."""

    def __init__(self, path: str, settle: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Take files as complete after `settle` seconds without change."""
        self.path = os.path.abspath(path)
        self._settle = settle
        self._clock = clock
        self._waiting: dict[Identity, float] = {}  # of each file that is not complete: when it was first seen so
        self.settling = 0  # images that the last look found and that are not complete

    def look(self, most: int, is_known: Callable[[Arrival], bool], is_mask: Callable[[str], bool]) -> list[Arrival]:
        """Return the earliest complete images that are not known, in order. Raises OSError of the folder itself."""
        now, seen = self._clock(), self._waiting
        self._waiting, self.settling = {}, 0

        def complete() -> Iterator[Arrival]:
            for name, path, status in _files(self.path):
                arrival = Arrival(changed_ns(status), name, path, status.st_size, status.st_ino)
                is_image = _is_image(name) and not is_mask(name)
                if is_image and is_known(arrival):
                    continue
                identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
                since = self._waiting[identity] = seen.get(identity, now)
                if is_image and identity in seen and now - since >= self._settle:
                    yield arrival
                elif is_image:
                    self.settling += 1

        return heapq.nsmallest(most, complete())


def _is_image(name: str) -> bool:
    return has_image_suffix(name) and not os.path.basename(name).startswith(".")


def _files(top: str) -> Iterator[tuple[str, str, os.stat_result]]:
    """Yield name, path and status of every file. Raises OSError of the folder itself; others may come and go."""
    folders = [top]
    while folders:
        folder = folders.pop()
        try:
            entries = os.scandir(folder)
        except OSError:
            if folder == top:
                raise
            continue
        with entries:
            for entry in entries:
                try:
                    if entry.is_dir(follow_symlinks=False):
                        if not entry.name.startswith("."):
                            folders.append(entry.path)
                        continue
                    status = os.stat(entry.path, follow_symlinks=False)  # not the cached one, which has no inode on SMB
                except OSError:
                    continue
                if is_regular(status):
                    yield os.path.relpath(entry.path, top), entry.path, status
