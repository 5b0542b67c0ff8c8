"""Processes that tests start and kill, and all that a gallery answers, to be compared bit by bit."""

import os
import resource
from collections.abc import Callable
from typing import Any

import numpy as np

from spade_index.gallery import Gallery

QUERIES = np.random.default_rng(1).normal(size=(3, 12)).astype(np.float32)


def forked(action: Callable[[], object]) -> int:
    """Run an action in a forked process; return its id."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return pid


def open_few_files(most: int) -> None:
    """Let this forked process open so many files at most; what other tests have left open is closed."""
    os.closerange(3, 1 << 16)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def killed(pid: int) -> bool:
    """Wait for a process to end; return whether a signal ended it. If it failed by itself, the test fails."""
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return os.WIFSIGNALED(status)


def answers_of(gallery: Gallery) -> list[Any]:
    """Return all that an open gallery answers about its images, to be compared bit by bit."""
    rows = list(gallery.images())
    nearest = gallery.nearest(QUERIES, 5)
    maps = [level.tobytes() for level in gallery.maps([row.key for row in rows])]
    return [nearest, maps, [(row.id, row.key, gallery.thumbnail(row)) for row in rows], gallery.level_variances()]
