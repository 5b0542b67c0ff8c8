"""Bring a whole object to a file, from where an interruption left it, and check its digest."""

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import xxhash

from spade_index.gallery.store.files import file_digest, make_durable, write_at

from .failures import Damaged
from .store import PART, Remote

Progress = Callable[[int], None]


def download(
    remote: Remote, name: str, path: Path, size: int, digest: str, progress: Progress = lambda count: None
) -> int:
    """Bring an object to `path`, in place of what is there; return the bytes that came. Raises RemoteError, OSError.

    Another process that brings it is waited for: then none come, and its file stays, which may be in use.
    """
    part = path.with_name(f"{path.name}.{digest}.part")
    for _ in range(2):  # what an earlier call left may be damaged
        fd = _opened(part)
        try:
            if has_digest(path, digest, size):  # another process has brought it meanwhile
                part.unlink()
                progress(size)
                return 0
            start = min(os.fstat(fd).st_size, size)
            os.ftruncate(fd, start)
            found = _digest_of(fd, start)
            progress(start)
            for offset in range(start, size, PART):
                block = remote.block(name, offset, min(PART, size - offset))
                write_at(fd, block, offset)
                found.update(block)
                progress(len(block))
            if found.hexdigest() == digest:
                make_durable(part, path)
                return size - start
            part.unlink()
            progress(-size)
        finally:
            os.close(fd)
    raise Damaged(f"{remote.location}/{name}: is not what was pushed: delete it and push the gallery again")


def has_digest(path: Path, digest: str, size: int | None = None) -> bool:
    """Return whether a regular file is there with this digest; one of another size than is known is not read."""
    with suppress(OSError):
        return size in (None, path.lstat().st_size) and file_digest(path) == digest
    return False


def _opened(part: Path) -> int:
    """Open a part for this caller alone. Raises OSError."""
    while True:
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.path.lexists(part) and os.path.samestat(os.fstat(fd), os.lstat(part)):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # the one before has deleted or renamed it


def _digest_of(fd: int, size: int) -> "xxhash.xxh3_128":
    """Return the digest of the first bytes of a file, to carry on with."""
    digest = xxhash.xxh3_128()
    for offset in range(0, size, PART):
        digest.update(os.pread(fd, min(PART, size - offset), offset))
    return digest
