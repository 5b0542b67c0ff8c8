"""A clock that tells how long work was planned to take: what there is time for must not depend on the machine's speed.

Ways of comparing that are tried as time allows would be others on a slow or busy machine, and so would the verdict.
"""

import time

SLOWEST = 5.0  # times as long as planned: beyond that, the time that has passed counts


class PlannedClock:
    """Seconds of the work done since it was made, as they were planned.

    A fifth of the time that has passed is the least: a limit of this clock is one of time, too.
    """

    def __init__(self) -> None:
        self._planned = 0.0
        self._started = time.perf_counter()

    def spend(self, seconds: float) -> None:
        """Count work that was planned to take so long."""
        self._planned += seconds

    def seconds(self) -> float:
        """Return the seconds that the work was planned to take, or a fifth of what has passed if that is more."""
        return max(self._planned, (time.perf_counter() - self._started) / SLOWEST)
