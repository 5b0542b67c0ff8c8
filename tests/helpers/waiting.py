"""Wait for something to become true, with a limit on the time."""

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 30  # seconds before a test that waits fails


def eventually(true: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Wait until something is true; fail if it is not in time."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)
