"""Time work as if nothing else ran on the machine: a way of comparing must not look slow because others are busy.

Linux counts, for each thread, how long it ran and how long it waited for a processor. What share of these was waiting
is the share of the time that others took.
"""

import os
import time
from pathlib import Path

THREADS = Path("/proc/self/task")
MOST_LENGTHENED = 3.0  # times: the clock never runs slower than this, so that a limit of it is one of time, too


class QuietClock:
    """Seconds since it was made, without those that threads of this process waited for a processor.

    Where the system does not count these, as outside Linux, it is a usual clock.
    """

    def __init__(self) -> None:
        self._threads = _threads()
        self._started = time.perf_counter()

    def seconds(self) -> float:
        """Return the seconds since the clock was made: at most as many as have passed, at least a third of them."""
        passed = time.perf_counter() - self._started
        ran = waited = longest = 0.0
        for thread, (its_run, its_wait) in _threads().items():
            run_before, wait_before = self._threads.get(thread, (0.0, 0.0))
            ran, waited = ran + its_run - run_before, waited + its_wait - wait_before
            longest = max(longest, its_wait - wait_before)
        share = waited / (ran + waited) if waited > 0 else 0.0
        return max(passed - min(share * passed, longest), passed / MOST_LENGTHENED)


def _threads() -> dict[str, tuple[float, float]]:
    """Return the seconds that each thread ran, and waited for a processor; empty where they are not counted."""
    found = {}
    try:
        for thread in os.listdir(THREADS):
            try:
                ran, waited, _ = (THREADS / thread / "schedstat").read_text().split()
            except (FileNotFoundError, ProcessLookupError):  # it has ended
                continue
            found[thread] = (int(ran) / 1e9, int(waited) / 1e9)
    except (OSError, ValueError):
        return {}
    return found
