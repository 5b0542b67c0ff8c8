"""The growth benchmark's processes, in which indexes of few descriptors are not exact."""

from collections.abc import Callable
from typing import Any

from spade_index.benchmarks.harness import Figures
from spade_index.benchmarks.processes import in_own_process
from spade_index.gallery.index import build

EXACT = 200  # EXACT_LIMIT of the index


def in_limited_process(function: Callable[..., Figures], *arguments: object, **options: Any) -> Figures:
    """Call a function as `in_own_process` does, in a process that has the lower limit."""
    return in_own_process(_limited, function, *arguments, **options)


def _limited(function: Callable[..., Figures], *arguments: object) -> Figures:
    build.EXACT_LIMIT = EXACT
    return function(*arguments)
