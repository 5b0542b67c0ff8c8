"""Measurements in processes of their own, and the memory and disk reads of processes.

Peak memory is the process's VmHWM when it is done, above what its libraries took. `os.wait4` and `getrusage` would
count what was resident before `exec` as well: the parent's.
"""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from spade_index.errors import SpadeIndexError

from .harness import Figures, one_line

MB = 1e6
PROCESSES = multiprocessing.get_context("spawn")


class Failed(SpadeIndexError):
    """A process gave no result; the message is the reason, in one line."""


def in_own_process(function: Callable[..., Figures], *arguments: object, limit_s: float | None = None) -> Figures:
    """Call a function of a module in a new process; return its figures as JSON gives them back.

    The function and its arguments are pickled. `peak_mb` is added to them, the peak of memory above that of the
    libraries. Raises Failed if the process fails or takes longer than `limit_s` seconds.
    """
    receiver, sender = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_child, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        if not receiver.poll(limit_s):
            raise Failed(f"was not done after {limit_s:,.0f} s")
        error, result = receiver.recv()
    except EOFError:
        process.join()
        status = process.exitcode or 0
        raise Failed(f"was killed by signal {-status}" if status < 0 else f"ended with status {status}") from None
    finally:
        process.kill()
        process.join()
    if error is not None:
        raise Failed(error)
    figures: Figures = json.loads(result)
    return figures


def _child(sender: Connection, function: Callable[..., Figures], arguments: tuple[object, ...]) -> None:
    before = _memory("VmRSS")  # of the libraries: the function's module is imported
    try:
        figures = function(*arguments)
        peak = _memory("VmHWM") - before
        sender.send((None, json.dumps({**figures, "peak_mb": peak / MB})))
    except Exception as error:
        sender.send((str(error) if isinstance(error, SpadeIndexError) else one_line(error), None))


def _memory(name: str) -> int:
    """Return the bytes of a line of this process's status: VmRSS, resident, or VmHWM, the peak of it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def resident() -> dict[str, float]:
    """Return the resident megabytes of this process: its own, and of mapped files, which the system may take back."""
    memory = psutil.Process().memory_info()
    return {"anonymous_mb": (memory.rss - memory.shared) / MB, "file_mb": memory.shared / MB}


def above(before: dict[str, float]) -> dict[str, float]:
    """Return the resident megabytes now, less those before."""
    return {name: value - before[name] for name, value in resident().items()}


def process_tree() -> list[psutil.Process]:
    """Return this process and all its descendants."""
    return [psutil.Process(), *psutil.Process().children(recursive=True)]


def resident_mb(processes: Iterable[psutil.Process]) -> float:
    """Return the resident megabytes of processes. Pages that they share, those of libraries, count in each."""
    total = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total / MB


def read_from_disk() -> int:
    """Return the bytes that the system has read from disk for this process; 0 where the kernel does not count them."""
    return int(psutil.Process().io_counters().read_bytes)


def forget(paths: Iterable[Path]) -> None:
    """Drop files from the system's cache, except for pages that a process has mapped."""
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)  # pages that are not written yet would stay
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)
