"""The native backend at the ends of what numbers can hold: bounds are bounds, and nothing is read that is not there."""

import ctypes
import mmap

import numpy as np
import pytest
import torch

from spade_index.kernels import native, nearest_pixels
from spade_index.kernels.native import library

from helpers.kernel_cases import pyramid_of

SETS = pytest.mark.parametrize("instructions", library.instruction_sets())
SIZES, CHANNELS = [(8, 8), (4, 4)], (16, 8)


def find(search, instructions, weights=None):
    """Search with one instruction set."""
    given = {"weights": weights or [1.0] * len(search["sizes"]), "mode": "concat-nearest"}
    return native.nearest_pixels(**search, **given, instructions=instructions)


@SETS
@pytest.mark.parametrize("channels", [256, 2048, 8192])
def test_sums_whose_terms_round_alike_lose_no_nearest_pixel(channels, instructions):
    query = torch.full((1, 16, channels), 246.0)
    pool = torch.zeros(2, 16, channels, dtype=torch.float16)
    pool[1] = -246
    pool[1, 0], pool[1, 8] = 245, 246
    search = {"query": [query], "pool": [pool], "pages": torch.tensor([[1]]), "k": 1, "sizes": [(4, 4)]}
    distances, matches = find(search, instructions)
    assert (matches == 8).all()
    assert (distances == 0).all()


@SETS
@pytest.mark.parametrize("bits", [0x7FFF, 0xFFFF, 0x7E00, 0x7C00])
def test_every_nan_makes_a_map_one_that_is_not_finite(bits, instructions):
    query, pool = (pyramid_of("random", n, SIZES, CHANNELS, n, torch.float32) for n in (1, 3))
    pool = [level.half() for level in pool]
    expected = nearest_pixels(query, pool, torch.tensor([[0, 2]]), 2, sizes=SIZES, backend="reference")
    pool[0][1, 5, 3] = torch.from_numpy(np.array([bits], np.uint16).view(np.float16))[0]
    search = {"query": query, "pool": pool, "pages": torch.tensor([[1, 0, 2]]), "k": 2, "sizes": SIZES}
    distances, matches = find(search, instructions)
    torch.testing.assert_close(distances, expected[0], rtol=1e-5, atol=1e-6)
    assert torch.equal(matches, expected[1] + 64)


@SETS
@pytest.mark.parametrize("factor", [1e-38, 1e-40, 1e-20, 1e10, 1e30])
def test_weights_of_any_size_find_the_same_pixels(factor, instructions):
    query, pool = (pyramid_of("random", n, SIZES, CHANNELS, n, torch.float32) for n in (1, 3))
    search = {"query": query, "pool": [level.half() for level in pool]}
    search |= {"pages": torch.tensor([[1, 0, 2]]), "k": 1, "sizes": SIZES}
    _, expected = nearest_pixels(**search, backend="reference")
    assert torch.equal(find(search, instructions, [factor, factor])[1], expected)


@SETS
@pytest.mark.parametrize("value", [1e20, float("inf"), float("nan")])
def test_nothing_before_the_first_map_is_read(value, instructions):
    """A coarse level begins at a page that may not be read before; cells are padded to whole tiles."""
    sizes = [(20, 20), (10, 10)]
    page, count = mmap.PAGESIZE, 2 * 100 * 512
    memory = mmap.mmap(-1, 2 * page + 2 * count)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start), ctypes.c_size_t(page), 0) == 0
    coarse = torch.frombuffer(memory, dtype=torch.float16, offset=page, count=count).view(2, 100, 512)
    coarse.fill_(1)
    query = [torch.randn(1, 400, 8), torch.randn(1, 100, 512)]
    query[0][0, 30, 0] = value
    search = {"query": query, "pool": [torch.randn(2, 400, 8).half(), coarse], "pages": torch.tensor([[0, 1]])}
    _, matches = find(search | {"k": 1, "sizes": sizes}, instructions)
    assert 0 <= matches.min() <= matches.max() < 800
