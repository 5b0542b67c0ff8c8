"""Run operations in child processes, and kill them at random moments."""

import os
import random
import select
import signal
import time
import traceback
from pathlib import Path
from statistics import mean

from durability.model import Operation

LEFT_ALONE = 0.15  # share of operations that are not killed, to measure how long they take
LATEST = 8  # durations that are kept for each kind of operation


class Killer:
    """Starts operations and kills them, uniformly over the time that they take undisturbed."""

    def __init__(self, rng: random.Random, seconds: dict[str, list[float]]) -> None:
        """Add to `seconds` how long each kind of operation takes."""
        self._rng = rng
        self._seconds = seconds

    def run(self, operation: Operation, path: Path) -> tuple[bool, str]:
        """Return whether the operation was killed before its end, and when. Raises AssertionError if it failed."""
        times = self._seconds.setdefault(operation.kind, [])
        share = self._rng.random()
        spared = self._rng.random() < LEFT_ALONE
        pid, pipe = started(operation, path)
        begun = time.perf_counter()
        moment = None
        if times and not spared:
            moment = share * mean(times[-LATEST:])
            if select.select([pipe], [], [], moment)[0]:
                times.append(time.perf_counter() - begun)  # shorter than those before it: the next are killed earlier
            os.kill(pid, signal.SIGKILL)
        with os.fdopen(pipe, "rb") as said:
            text = said.read().decode()  # until it ends
        seconds = time.perf_counter() - begun
        _, status = os.waitpid(pid, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL and moment is not None
        assert killed or status == 0, f"{operation} failed by itself: {text or status}"
        if moment is None:
            times.append(seconds)
            return False, "left to finish"
        return killed, f"killed after {1000 * moment:.1f} ms" if killed else "had finished"


def started(operation: Operation, path: Path) -> tuple[int, int]:
    """Start a process that runs an operation; return its id, and a pipe that has its error, and ends with it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            os.write(writing, b".")
            operation.perform(path)
            status = 0
        except BaseException:
            os.write(writing, traceback.format_exc().encode())
        finally:
            os._exit(status)
    os.close(writing)
    os.read(reading, 1)
    return pid, reading
