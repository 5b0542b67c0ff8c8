"""Processes that are killed at a chosen instant, and what a gallery answers, to be compared bit by bit."""

import importlib
import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from spade_index.gallery import Gallery

QUERIES = np.random.default_rng(1).normal(size=(3, 12)).astype(np.float32)


def forked(action: Callable[[], object]) -> int:
    """Run something in a process of its own; returns its id."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return pid


def killed(pid: int) -> bool:
    """Wait for a process to end; whether a signal ended it. Its own failures fail the test."""
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return os.WIFSIGNALED(status)


def die_at(name: str, call: int, before: bool = True) -> None:
    """Make this process kill itself in the given call of a function, `module:function` or `module:Class.method`."""
    patch = pytest.MonkeyPatch()
    original, path = importlib.import_module(name.partition(":")[0]), name.partition(":")[2]
    for part in path.split("."):
        owner, original = original, getattr(original, part)
    left = call

    def dying(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **options)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    patch.setattr(owner, part, dying)


def answers_of(gallery: Gallery) -> list[Any]:
    """What an open gallery says and shows of its images, to be compared bit by bit."""
    rows = list(gallery.images())
    nearest = gallery.nearest(QUERIES, 5)
    maps = [level.tobytes() for level in gallery.maps([row.key for row in rows])]
    return [nearest, maps, [(row.id, row.key, gallery.thumbnail(row)) for row in rows], gallery.level_variances()]
