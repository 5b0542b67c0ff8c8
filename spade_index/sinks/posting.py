"""Empty a spool into one sink, and wait longer after each failure."""

import random
import time

from .contract import Sink, Unreachable
from .spool import Spool

PATIENCE = 60.0  # seconds between two attempts at most


class Post:
    """Delivers to one sink what a spool keeps for it."""

    def __init__(self, sink: Sink, spool: Spool) -> None:
        self._sink, self._spool = sink, spool
        self.name = sink.name
        self.delivered = 0  # verdicts
        self.reason: str | None = None  # why the last attempt failed
        self._failures = 0
        self._next = 0.0

    def step(self) -> int:
        """Deliver a batch, unless it is too early for another attempt; return its verdicts. Raises SpoolError."""
        if self.reason is not None and time.monotonic() < self._next:
            return 0
        waiting = self._spool.undelivered(self.name, self._sink.batch)
        if not waiting:
            return 0
        try:
            self._sink.deliver([record for _, record in waiting])
        except Unreachable as error:
            self.reason = str(error)
            delay = min(PATIENCE, 2.0 ** min(self._failures, 10))
            self._failures += 1
            self._next = time.monotonic() + delay * random.uniform(0.5, 1)  # not all at the same moment
            return 0
        self.reason, self._failures = None, 0
        self._spool.delivered(self.name, waiting[-1][0])
        self.delivered += len(waiting)
        return len(waiting)
