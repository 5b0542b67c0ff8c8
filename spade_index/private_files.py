"""Files of secrets, read once at the start: short, private, and never waited for without end."""

import os
import select
import stat
import time
from pathlib import Path

from spade_index.errors import InputError

OTHERS, GROUP = 0o007, 0o070  # bits of permissions
PATIENCE = 10  # seconds that a pipe has to be written, as by `<(pass show keys)`
MOST_BYTES = 1 << 20
BLOCK = 1 << 16


def read_private(path: Path, *, group: bool = False, most: int = MOST_BYTES, patience: float = PATIENCE) -> bytes:
    """Return the contents of a file, or what is written into a pipe.

    Args:
        path: of the file.
        group: whether its group may use it.
        most: bytes that are taken.
        patience: seconds until a pipe must have been written and closed.

    Raises:
        InputError: others can use it, it is larger, or it cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(fd).st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
                raise InputError(f"{path}: is a folder or a device, not a file")
            if mode & (OTHERS if group else OTHERS | GROUP):
                raise InputError(f"{path}: other users can read or change it: `chmod 600` it")
            data = _contents(fd, most + 1, time.monotonic() + patience)
        finally:
            os.close(fd)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise InputError(f"{path}: cannot be read ({reason})") from error
    if len(data) > most:
        raise InputError(f"{path}: has more than {most:,} bytes")
    return data


def shared_with_group(path: Path | None) -> str | None:
    """Return what to say of a file of secrets that its group can use; None where it cannot, or for a pipe."""
    status = None if path is None else path.stat()
    if status is None or not stat.S_ISREG(status.st_mode) or not status.st_mode & GROUP:
        return None
    return f"{path}: its group can read or change it: `chmod 600` it unless that is meant"


def _contents(fd: int, most: int, until: float) -> bytes:
    """Return what a descriptor that does not block has to its end. Raises OSError for a pipe that has none."""
    data = b""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while len(data) < most:
        if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
            raise OSError("a pipe that nobody has written and closed in time")
        try:
            block = os.read(fd, min(BLOCK, most - len(data)))
        except BlockingIOError:
            continue
        if not block:
            break
        data += block
    return data
