"""A thread that lives as long as the service: no error ends it, also none in handling another."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

PAUSE = 0.2  # seconds after an error that nobody handled: memory or descriptors may be there again

log = logging.getLogger("spade_index.server")


class Worker:
    """Calls a function again and again, until it returns False."""

    def __init__(self, name: str, turn: Callable[[], bool]) -> None:
        """Call `turn` in a thread of this name, once started."""
        self.name = name
        self.failures = 0  # errors that `turn` did not handle
        self._turn = turn
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self, seconds: float | None = None) -> bool:
        """Wait for the end, for some seconds at most; return whether it has come."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Return whether the thread is alive."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while True:
            try:
                if not self._turn():
                    return
            except BaseException:
                self.failures += 1
                with suppress(BaseException):
                    log.exception("the thread %s goes on after an error", self.name)
                with suppress(BaseException):
                    time.sleep(PAUSE)
