"""What tests have decoding processes do; light to import."""

import os
import sys
import time
from collections.abc import Callable

from spade_index.images.workers import Plain


def told(read: Callable[[], bytes]) -> Plain:
    return {"pid": os.getpid(), "told": read().decode(), "modules": sorted(sys.modules)}, [bytes(5)]


def allocate(read: Callable[[], bytes], size: int) -> Plain:
    return {"size": len(bytearray(size))}, []


def sleep(read: Callable[[], bytes], seconds: float) -> Plain:
    time.sleep(seconds)
    return {}, []


def die(read: Callable[[], bytes], number: int) -> Plain:
    os.kill(os.getpid(), number)
    return {}, []


def write(read: Callable[[], bytes], path: str) -> Plain:
    with open(path, "wb") as file:
        file.write(b"x")
    return {}, []


def fail(read: Callable[[], bytes]) -> Plain:
    raise KeyError("a fault of ours")
