"""JSON lines of verdicts, in a file or on standard output."""

import json
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from spade_index.errors import InputError

from .contract import Unreachable, stamped

BLOCK = 1 << 16
BEGIN = b'{"id": "'  # of each line


class JsonLines:
    """Appends one line per verdict to a file, flushed to disk, or to standard output."""

    batch = 256

    def __init__(self, path: Path | None, name: str = "jsonl") -> None:
        """Open a file, and cut what a crash left of its last line; None: standard output. Raises InputError."""
        self.name = name
        self._path = path
        self._fd = -1 if path is None else _opened(path)

    def deliver(self, verdicts: Sequence[str]) -> None:
        """Append lines. Raises Unreachable, and then none of them is there."""
        lines = "".join(json.dumps(stamped(record, self.name)) + "\n" for record in verdicts)
        if self._path is None:
            sys.stdout.write(lines)
            sys.stdout.flush()
            return
        size = os.fstat(self._fd).st_size
        try:
            left = memoryview(lines.encode())
            while left:
                left = left[os.write(self._fd, left) :]
            os.fsync(self._fd)
        except OSError as error:
            os.ftruncate(self._fd, size)
            raise Unreachable(f"{self._path}: {error.strerror}") from error

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _opened(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InputError(f"{path}: is a folder, a pipe or a device: name a file")
        end = os.fstat(fd).st_size
        whole = _end_of_lines(fd, end)
        if whole < end:
            begun = os.pread(fd, len(BEGIN), whole)
            if not BEGIN.startswith(begun):
                raise InputError(f"{path}: its last line has no end, and is no verdict: name another file")
            os.ftruncate(fd, whole)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _end_of_lines(fd: int, size: int) -> int:
    """Return the place after the last line that is complete."""
    end = size
    while end > 0:
        start = max(0, end - BLOCK)
        found = os.pread(fd, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
