"""What the tests of the pixel search run in."""

import pytest
import torch

from spade_index.kernels.torch_backend import search as torch_backend


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Work this small only waits for threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def bfloat16_at_any_depth(monkeypatch):
    """Rounding must be right however few channels there are, though so few gain nothing from it."""
    monkeypatch.setattr(torch_backend, "DEEP", 1)
