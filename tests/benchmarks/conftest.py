"""Measurements in processes that start at once."""

from collections.abc import Iterator

import pytest

from spade_index.benchmarks import processes

from helpers.warm import FORKS


@pytest.fixture(autouse=True, scope="module")
def _forking() -> Iterator[None]:
    """Let a measurement's process of its own be a fork, which has no torch to import."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "PROCESSES", FORKS)
        yield
