"""Operations in processes of their own that are killed at random moments."""

import os
import random
import signal
import time
import traceback
from pathlib import Path
from statistics import mean

from durability.model import Operation

LEFT_ALONE = 0.15  # share of operations that are left to finish, for the time that they take
LATEST = 8  # of an operation's times


class Killer:
    """Starts operations and kills them, uniformly over the time that they take when nothing kills them."""

    def __init__(self, rng: random.Random, seconds: dict[str, list[float]]) -> None:
        """`seconds` that each kind of operation took so far, to be added to."""
        self._rng = rng
        self._seconds = seconds

    def run(self, operation: Operation, path: Path) -> tuple[bool, str]:
        """Whether a process was killed before it was done, and when; raises AssertionError if it failed by itself."""
        times = self._seconds.setdefault(operation.kind, [])
        share = self._rng.random()
        spared = self._rng.random() < LEFT_ALONE
        pid, pipe = started(operation, path)
        begun = time.perf_counter()
        moment = None
        if times and not spared:
            moment = share * mean(times[-LATEST:])
            time.sleep(moment)
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
    """A process that has begun an operation, and a pipe that ends with it and says how it failed."""
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
