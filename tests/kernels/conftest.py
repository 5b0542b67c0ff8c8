"""Fixtures of the pixel search's tests."""

import pytest
import torch

from spade_index.kernels.native import search as native
from spade_index.kernels.torch_backend import search as torch_backend

from helpers.interpreter import interpreting


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Run torch in one thread: for work this small, threads cost time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def bfloat16_at_any_depth(monkeypatch):
    """Let the torch backend round to bfloat16 at any number of channels, though few gain nothing from it."""
    monkeypatch.setattr(torch_backend, "DEEP", 1)


@pytest.fixture(autouse=True)
def threads_for_any_work(monkeypatch):
    """Let backends use all of their threads, though little work is quicker in one."""
    monkeypatch.setattr(torch_backend, "PAIRS", 0)
    monkeypatch.setattr(native, "LEAST_WORK", 1)
    monkeypatch.setattr(native, "LEAST_IN_WINDOW", 1)


@pytest.fixture(scope="session")
def interpreter():
    """Triton's interpreter, in one process for all tests that need it."""
    with interpreting() as running:
        yield running
