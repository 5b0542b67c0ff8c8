"""What the tests of the pixel search run in."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Work this small only waits for threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
