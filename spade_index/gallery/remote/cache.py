"""The cache: what was read of object stores, in a folder of this machine that all processes of a user share.

    CACHE/blocks/DIGEST/3               bytes 12 to 16 MiB of the object with this digest, as far as they were read; the
                                        rest are holes. Readers compare each block with its sum, so no lock is needed.
    CACHE/blocks/DIGEST/sums            see `sums`
    CACHE/files/000007-DIGEST.faiss     a whole object, whose digest is compared when it comes and before each first use

What was used least recently is deleted first. A deleted file stays readable for those who have it open.
"""

import errno
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from spade_index.errors import InputError, storage_errors
from spade_index.paths import path_of

from .sums import MOST_BYTES

VARIABLE = "SPADE_INDEX_CACHE"
SPAN = 4 << 20  # bytes of an object that are kept or deleted together
KEPT = 0.875  # share of the cache that stays when room is made; the rest is for processes that write at the same time
CHECKS = 64  # room is made after each of so many parts of the cache was written
IN_USE = 60.0  # seconds after its last use in which a whole file is not deleted: who has found it is about to open it
BLOCKS, FILES, SUMS = "blocks", "files", "sums"
DIGEST = re.compile(r"[0-9a-f]{32}")
PART = re.compile(r"\d{1,12}|sums")
WHOLE = re.compile(r"[\d-]*[0-9a-f]{32}\.(?:sqlite|faiss|h5)(?:\.[0-9a-f]{32}\.part)?")


def default_folder() -> Path:
    """Return $SPADE_INDEX_CACHE, or spade-index in the user's folder of caches."""
    if given := os.environ.get(VARIABLE):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "spade-index"


@dataclass(frozen=True)
class CacheSettings:
    """Where the cache is, and how large it may become."""

    folder: Path = field(default_factory=default_folder)
    bytes: int = 10_000_000_000


@dataclass(frozen=True)
class _Entry:
    """A file of the cache."""

    used: float
    path: str
    bytes: int


class Cache:
    """Reads and writes the folder. Bytes of blocks may be any: the caller compares them with sums."""

    def __init__(self, settings: CacheSettings) -> None:
        """Make the folder. Raises StorageError, and InputError for a path that none can have."""
        self.folder = Path(os.path.abspath(path_of(settings.folder, "the cache")))
        self._most = settings.bytes
        self._written = settings.bytes  # since room was made
        self._making_room = Lock()
        with storage_errors(self.folder):
            for name in (BLOCKS, FILES):
                (self.folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)

    def read(self, digest: str, out: memoryview, offset: int) -> None:
        """Fill `out` with what is kept of an object from `offset`, with anything where nothing is."""
        for span, start, some in _spans(out, offset):
            with suppress(OSError), _opened(self._path(digest, span), os.O_RDONLY) as fd:
                os.preadv(fd, [some], start)
                os.utime(fd)

    def write(self, digest: str, data: memoryview, offset: int) -> None:
        """Keep bytes of an object, if there is room."""
        for span, start, some in _spans(data, offset):
            self._write(self._path(digest, span), some, start)

    def sums(self, digest: str) -> bytes:
        """Return what is kept of the sums of an object; empty if nothing is."""
        with suppress(OSError), _opened(self._path(digest, SUMS), os.O_RDONLY) as fd:
            os.utime(fd)
            size = os.fstat(fd).st_size
            return os.pread(fd, size, 0) if size <= MOST_BYTES else b""
        return b""

    def keep_sums(self, digest: str, data: bytes) -> None:
        """Keep the sums of an object, if there is room."""
        self._write(self._path(digest, SUMS), memoryview(data), 0)

    def file(self, name: str) -> Path:
        """Return where a whole object is kept, or would be; note that it is in use if it is there."""
        path = self.folder / FILES / name.rpartition("/")[2]
        with suppress(OSError):
            os.utime(path)
        return path

    def make_room(self, size: int) -> None:
        """Note that `size` bytes are about to be written, and make room. Raises InputError if they are too many."""
        if size > KEPT * self._most:
            needed = int(size / KEPT) + 1
            raise InputError(f"{self.folder}: the cache is too small: set --cache-bytes to {needed:,} at least")
        self._written += size
        if self._written > self._most // CHECKS and self._making_room.acquire(blocking=False):
            try:
                self._written = 0
                self._delete_oldest(size)
            finally:
                self._making_room.release()

    def _write(self, path: Path, data: memoryview, offset: int) -> None:
        with suppress(OSError, InputError):  # the answers are the same without a cache
            self.make_room(len(data))
            path.parent.mkdir(mode=0o700, exist_ok=True)
            with _opened(path, os.O_WRONLY | os.O_CREAT) as fd:
                os.pwrite(fd, data, offset)

    def _path(self, digest: str, name: str) -> Path:
        return self.folder / BLOCKS / digest / name

    def _delete_oldest(self, size: int) -> None:
        """Delete what was used least recently, until there is room for `size` bytes."""
        entries = sorted(self._entries(), key=lambda entry: entry.used)
        left = size + sum(entry.bytes for entry in entries)
        for entry in entries:
            if left <= KEPT * self._most:
                return
            if entry.path.startswith(f"{self.folder}/{FILES}/") and time.time() - entry.used < IN_USE:
                continue
            with suppress(OSError):
                os.unlink(entry.path)
                left -= entry.bytes
            with suppress(OSError):  # unless other spans are there
                os.rmdir(os.path.dirname(entry.path))

    def _entries(self) -> Iterator[_Entry]:
        yield from _files(self.folder / FILES, WHOLE)
        for folder in _listed(self.folder / BLOCKS):
            if DIGEST.fullmatch(folder.name):
                yield from _files(folder, PART)


def _spans(data: memoryview, offset: int) -> Iterator[tuple[str, int, memoryview]]:
    """Yield the parts of bytes at `offset` in an object: the name of its span, its place in that, and the bytes."""
    done = 0
    while done < len(data):
        number, start = divmod(offset + done, SPAN)
        some = data[done : done + SPAN - start]
        yield str(number), start, some
        done += len(some)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """Open a file of the cache. Raises OSError, also for what is none, such as a pipe, of which a read has no end."""
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "is no file", str(path))
        yield fd
    finally:
        os.close(fd)


def _files(folder: Path | os.DirEntry[str], names: re.Pattern[str]) -> Iterator[_Entry]:
    for file in _listed(folder):
        with suppress(OSError):
            status = file.stat(follow_symlinks=False)
            if names.fullmatch(file.name):
                yield _Entry(status.st_mtime, file.path, 512 * status.st_blocks)


def _listed(folder: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    with suppress(OSError), os.scandir(folder) as entries:
        return list(entries)
    return []
