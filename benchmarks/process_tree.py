"""This process and those that it started, as Linux' /proc shows them: memory, and whether any of them works."""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
GONE = (FileNotFoundError, ProcessLookupError)  # a process or thread that ended while it was looked at


def process_tree() -> list[int]:
    """The ids of this process and of all that descend from it, this one first."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with suppress(*GONE):
                children.setdefault(int(_fields(entry / "stat")[1]), []).append(int(entry.name))
    found = [os.getpid()]
    for pid in found:
        found += children.get(pid, [])
    return found


def resident(pids: list[int]) -> float:
    """Resident memory of these processes in MB. Pages that they share, those of libraries, count in each."""
    kilobytes = 0
    for pid in pids:
        with suppress(*GONE):
            status = (PROC / str(pid) / "status").read_text()
            kilobytes += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    return kilobytes * 1024 / 1e6


def wait_until_idle(still: float = 0.02, limit: float = 5.0) -> float:
    """Wait until no other thread of the process tree runs, wants to, or waits for a disk, for `still` seconds.

    Returns when that began, on time.perf_counter's clock; after `limit` seconds, the time that it was given up.
    """
    pids, caller = process_tree(), threading.get_native_id()
    began = time.perf_counter()
    idle_since: float | None = None
    while (now := time.perf_counter()) < began + limit:
        if _busy(pids, caller):
            idle_since = None
        elif idle_since is None:
            idle_since = now
        elif now - idle_since >= still:
            return idle_since
        time.sleep(0.002)
    return now


def _busy(pids: list[int], caller: int) -> bool:
    for pid in pids:
        with suppress(*GONE):
            for task in (PROC / str(pid) / "task").iterdir():
                with suppress(*GONE):
                    if int(task.name) != caller and _fields(task / "stat")[0] in "RD":
                        return True
    return False


def _fields(stat: Path) -> list[str]:
    """What stands in a stat file after the name, which may hold spaces: state, parent and so on."""
    return stat.read_text().rpartition(")")[2].split()


@dataclass(frozen=True)
class MemorySample:
    """Resident memory of the process tree at a moment."""

    seconds: float  # since sampling began
    megabytes: float
    images: int  # that were through the backbone
    committed: int  # that the gallery held


class MemorySampler:
    """Samples memory every `interval` seconds on a thread of its own. Use as a context manager."""

    def __init__(self, images: Callable[[], int], committed: Callable[[], int], interval: float = 1.0) -> None:
        """`images` and `committed` say how far the ingest is, and are called on the sampler's thread."""
        self.samples: list[MemorySample] = []
        self._images, self._committed = images, committed
        self._interval = interval
        self._began = time.perf_counter()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sample-memory", daemon=True)

    def __enter__(self) -> "MemorySampler":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            seconds = time.perf_counter() - self._began
            megabytes = resident(process_tree())
            self.samples.append(MemorySample(seconds, megabytes, self._images(), self._committed()))
            if self._end.wait(self._interval):
                return
