"""The torch backend's rounding and pruning on features made to mislead them, in every way of searching."""

from itertools import product

import pytest
import torch

from spade_index.kernels import nearest_pixels

from helpers.kernel_cases import (
    PRECISIONS,
    PRUNE,
    assert_same,
    distances_at,
    pyramid_of,
)  # fmt: skip

WAYS = list(product(PRUNE, PRECISIONS))


@pytest.mark.parametrize(("prune", "precision"), WAYS)
@pytest.mark.parametrize("sizes", [[(8, 8)], [(16, 16), (8, 8), (4, 4)]], ids=str)
def test_near_duplicates_do_not_cancel(sizes, prune, precision):
    query = pyramid_of("random", 1, sizes, (100, 50, 30)[: len(sizes)], 3, torch.float32)
    query = [100 * level for level in query]  # norms of 1e3
    noise = pyramid_of("random", 1, sizes, (100, 50, 30)[: len(sizes)], 4, torch.float32)
    pool = [level + 1e-4 * n for level, n in zip(query, noise, strict=True)]
    search = {"query": query, "pool": pool, "pages": torch.zeros(1, 1).long(), "sizes": sizes}
    d, matches = nearest_pixels(**search, backend="torch", prune=prune, precision=precision)
    assert torch.equal(matches[0, :, 0], torch.arange(len(d[0])))
    expected = distances_at(search | {"weights": None, "mode": "concat-nearest"}, matches)
    torch.testing.assert_close(d.double(), expected, rtol=1e-6, atol=0)


def test_inputs_are_left_alone_and_results_take_no_part_in_autograd():
    query = [torch.randn(1, 16, 3, requires_grad=True), torch.randn(1, 4, 3, requires_grad=True)]
    pool = [torch.randn(1, 16, 3), torch.randn(1, 4, 3)]
    before = [level.detach().clone() for level in query + pool]
    for prune, precision in WAYS:
        d, _ = nearest_pixels(query, pool, torch.zeros(1, 1).long(), backend="torch", prune=prune, precision=precision)
        assert not d.requires_grad
    assert all(torch.equal(level, old) for level, old in zip(query + pool, before, strict=True))


@pytest.mark.parametrize("k", [2, 5])
def test_the_nearest_is_not_lost_in_a_crowd_that_ties_behind_it(k):
    """A query that matches the last pixel best, and then a background of which every pixel is equally far."""
    query, pool = [torch.ones(1, 144, 1)], [torch.zeros(1, 144, 1)]
    pool[0][0, -1] = 0.9
    search = {"query": query, "pool": pool, "pages": torch.zeros(1, 1).long(), "k": k}
    expected = nearest_pixels(**search, backend="reference")
    for prune, precision in WAYS:
        d, matches = nearest_pixels(**search, backend="torch", prune=prune, precision=precision)
        torch.testing.assert_close(d, expected[0])
        assert torch.equal(matches, expected[1])


@pytest.mark.parametrize("where", ["finest", "coarse"])
def test_rounding_to_bfloat16_at_its_worst_loses_nothing(where):
    """Values halfway between two of bfloat16: rounded, the nearest pixel seems five times as far as the next."""

    def pixel(most, few):
        """Return a pixel whose channels differ from 1 by `most` or `few` steps of half of bfloat16's resolution."""
        return 1 + 2**-8 * torch.tensor([most] * 56 + [few] * 8)

    size = (8, 8)
    noise = torch.rand(4, 64, 1, generator=torch.Generator().manual_seed(1))
    query, pool = pixel(5, 4).expand(1, 64, 64), -1 - noise.expand(4, 64, 64) / 4  # rounds to (4, 4)
    pool[0] = 0
    pool[2, 3], pool[3, 5] = pixel(3, 2), pixel(7, 4)  # round to (4, 2) and (8, 4)
    search = {"query": [query], "pool": [pool.half()], "sizes": [size], "pages": torch.tensor([[1, 2, 3]])}
    expected = torch.full((1, 64, 1), 56 * 2.0**-14), torch.full((1, 64, 1), 2 * 64 + 5)
    if where == "coarse":
        finest = {"query": torch.zeros(1, 256, 4), "pool": torch.zeros(4, 256, 4).half(), "sizes": (16, 16)}
        search |= {name: [level, *search[name]] for name, level in finest.items()}
        expected = torch.full((1, 256, 1), 56 * 2.0**-14), torch.full((1, 256, 1), 2 * 256 + 10)
    for prune, precision in WAYS:
        found = nearest_pixels(**search, backend="torch", prune=prune, precision=precision)
        assert_same(found, expected, f"with {prune=} {precision=}")
