"""The bytes of the images that were sent to be added, until their jobs have ended: counted, and limited."""

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from .problems import Problem

FULL_SECONDS = 60  # after which jobs may have ended


class StagedBytes:
    """Counts the bytes of each job."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._bytes: dict[str, int] = {}
        self._lock = threading.Lock()

    def found(self, job: str, folder: Path) -> None:
        """Count what an earlier service has left of a job."""
        with suppress(OSError), os.scandir(folder) as files:
            self._bytes[job] = sum(file.stat(follow_symlinks=False).st_size for file in files)

    def take(self, job: str, size: int) -> None:
        """Count more bytes of a job. Raises Problem (503) if that is too much for all together."""
        with self._lock:
            if sum(self._bytes.values()) + size > self._most:
                detail = f"images that wait to be added take {self._most:,} bytes at most: wait until jobs have ended"
                raise Problem(503, detail, retry_after=FULL_SECONDS)
            self._bytes[job] = self._bytes.get(job, 0) + size

    def forget(self, job: str) -> None:
        """Stop counting a job, whose images are deleted."""
        with self._lock:
            self._bytes.pop(job, None)


class StagedFile:
    """A file of a job that is written."""

    def __init__(self, file: BinaryIO, job: str, staged: StagedBytes) -> None:
        self._file, self._job, self._staged = file, job, staged

    def write(self, data: bytes) -> None:
        """Write the next piece. Raises Problem (503), OSError."""
        self._staged.take(self._job, len(data))
        self._file.write(data)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
