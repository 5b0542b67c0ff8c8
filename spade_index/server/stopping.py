"""A server that ends within a stated time after a signal, whatever runs."""

import logging
import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from .limits import END_SECONDS
from .settings import ServeSettings

log = logging.getLogger("spade_index.server")


class PunctualServer(uvicorn.Server):
    """Ends the process if a stop takes too long: a thread within a library cannot be ended, and would be waited for."""

    def __init__(self, config: uvicorn.Config, settings: ServeSettings) -> None:
        super().__init__(config)
        self._seconds = settings.request_seconds + END_SECONDS
        self._ending: threading.Timer | None = None

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Stop at SIGHUP, too, as when the terminal is closed; `nohup` still keeps the service from it."""
        with super().capture_signals():
            before = signal.getsignal(signal.SIGHUP)
            if before != signal.SIG_DFL or threading.current_thread() is not threading.main_thread():
                yield
                return
            signal.signal(signal.SIGHUP, self.handle_exit)
            try:
                yield
            finally:
                signal.signal(signal.SIGHUP, before)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop."""
        super().handle_exit(sig, frame)
        if self._ending is None:
            self._ending = threading.Timer(self._seconds, self._end)
            self._ending.daemon = True
            self._ending.start()

    def _end(self) -> None:
        """End as a kill would, which leaves galleries and jobs at their last commit."""
        try:
            log.warning("the stop takes longer than %g seconds: it ends now", self._seconds)
        finally:
            os._exit(1)
