"""Whole files: their digests, and how a complete file becomes durable under its name."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import xxhash

IRREGULAR = (errno.EINVAL, errno.ELOOP, errno.ENXIO)  # of opening a link, a pipe, a device or a folder
HOLE_BYTES = 1 << 30
BLOCK = 1 << 20  # bytes read at a time; they stay in a core's cache


def file_digest(path: Path, progress: Callable[[int], None] = lambda count: None) -> str:
    """Return the xxh3_128 of a file's bytes, in hexadecimal; `progress` is called with the bytes of each block.

    Raises OSError, also for what is not a regular file.
    """
    digest = xxhash.xxh3_128()
    block = memoryview(bytearray(BLOCK))
    with open(open_regular(path), "rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(block[:count])
            progress(count)
    return digest.hexdigest()


def open_regular(path: Path) -> int:
    """Open a file to read; return its descriptor. Raises OSError for a link, a device, or a pipe to wait for."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        require_regular(fd)
    except OSError as error:
        os.close(fd)
        raise OSError(error.errno, error.strerror, str(path)) from error
    return fd


def require_regular(fd: int) -> None:
    """Raise OSError for what is open and is a device, a pipe or a folder."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise OSError(errno.EINVAL, "not a regular file")


def name_of(fd: int, path: Path) -> str:
    """Return a name by which others open the very file that is open here, whatever has its `path` by now."""
    name = f"/proc/self/fd/{fd}"
    return name if os.path.exists(name) else str(path)


def is_hole(path: Path) -> bool:
    """Return whether a file is large, and nearly nothing of it is stored: nobody wrote it, and reading takes long."""
    status = path.lstat()
    return status.st_size > HOLE_BYTES and 512 * status.st_blocks < status.st_size // 64


def create(path: Path) -> BinaryIO:
    """Create a file to write and read, in place of one or a link that is there. Raises OSError."""
    path.unlink(missing_ok=True)
    return open(path, "x+b", buffering=0)


def write_at(fd: int, data: bytes | memoryview, position: int) -> None:
    """Write all of `data`, also where the system takes it in parts. Raises OSError; then a part may be there."""
    left = memoryview(data)
    while left:
        count = os.pwrite(fd, left, position)
        left, position = left[count:], position + count


def make_durable(temporary: Path, path: Path) -> str:
    """Flush a complete file to disk, rename it to `path` atomically, and return its digest. Raises OSError."""
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    digest = file_digest(temporary)
    rename(temporary, path)
    return digest


def rename(temporary: Path, path: Path) -> None:
    """Rename a durable file to `path` atomically, and flush that to disk. Raises OSError."""
    os.rename(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
