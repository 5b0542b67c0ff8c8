"""What the environment may lack: open standard streams, an encoding for every name, and time to end."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 128 + signal.SIGINT  # exit status, as shells report it


class Terminated(KeyboardInterrupt):
    """The process was asked to end by a signal; what a keyboard interrupt keeps is kept."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.status = 128 + number  # as shells report it


def prepare_streams() -> None:
    """Make the standard streams usable: a closed one is the null device, and what an encoding lacks is escaped.

    A file that is opened while standard error is closed would get its number, and messages of libraries in it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def let_idle_threads_sleep() -> None:
    """Let OpenMP's threads wait for tens of microseconds, not milliseconds, before they sleep. Before torch is loaded.

    torch and FAISS have threads of their own: while those of one wait for more work, they keep cores from the other's.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # iterations; sleeping at once makes backbones slower


@contextmanager
def silent_interrupt() -> Iterator[None]:
    """Let an interrupt end the process without a traceback, while there is nothing to be kept or told: at the start."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def ending_signals() -> Iterator[None]:
    """Raise Terminated where a signal would end the process at once; only the first one.

    While a module is imported, a signal ends the process, an interrupt too: initialisers in C++ cannot take exceptions.
    """

    def end(number: int, frame: FrameType | None) -> None:
        for each in ENDING:
            signal.signal(each, signal.SIG_IGN)
        _end_import(number, frame)
        raise Terminated(number)

    def interrupt(number: int, frame: FrameType | None) -> None:
        _end_import(number, frame)
        signal.default_int_handler(number, frame)

    before = {}
    with suppress(ValueError):  # not the main thread
        for each, taken in ((signal.SIGTERM, end), (signal.SIGHUP, end), (signal.SIGINT, interrupt)):
            if signal.getsignal(each) in (signal.SIG_DFL, signal.default_int_handler):
                before[each] = signal.signal(each, taken)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _end_import(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(128 + number)
        frame = frame.f_back


def default_signals() -> None:
    """Let signals end the process, or who handles them itself."""
    for each in ENDING:
        if callable(signal.getsignal(each)):
            signal.signal(each, signal.SIG_DFL)
