"""The torch backend against the reference: awkward sizes, awkward features, every way of searching.

`SPADE_INDEX_EXAMPLES=10000 pytest tests/kernels/test_torch_backend.py -k reference` tries other examples each time.
"""

import os
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spade_index.kernels import nearest_pixels

from helpers.kernel_cases import (
    LARGER,
    MODES,
    NESTED,
    OTHER,
    PRECISIONS,
    PRUNE,
    assert_right,
    assert_same,
    distances_at,
    pyramid_of,
    scale,
    searches,
)  # fmt: skip

EXAMPLES = os.environ.get("SPADE_INDEX_EXAMPLES")
WAYS = list(product(PRUNE, PRECISIONS))
# Of the k least distances: relative to them, and to the largest squared norm of a pixel.
TOLERANCE = {"float32": (1e-4, 1e-6), "fast": (1e-4, 1e-5)}


@settings(max_examples=int(EXAMPLES or 150), deadline=None, derandomize=EXAMPLES is None)
@given(searches(), st.sampled_from(PRUNE), st.sampled_from(PRECISIONS))
def test_torch_is_the_reference(search, prune, precision):
    found = nearest_pixels(**search, backend="torch", prune=prune, precision=precision)
    expected, _ = nearest_pixels(**search, backend="reference")
    rtol, atol = TOLERANCE[precision]
    assert_right(search, found, expected, rtol, atol)
    if search["mode"] == "per-level":
        level0 = search | {name: search[name][:1] for name in ("query", "pool", "sizes")} | {"weights": None}
        expected, _ = nearest_pixels(**level0, backend="reference")
        matched = distances_at(search, found[1]).float()
        torch.testing.assert_close(matched, expected, rtol=rtol, atol=atol * scale(level0))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes", NESTED + OTHER + LARGER, ids=str)
def test_separated_features_give_the_very_matches(sizes, mode):
    channels = (5, 3, 7, 2, 1)[: len(sizes)]
    query = pyramid_of("random", 2, sizes, channels, 1, torch.float32)
    pool = pyramid_of("random", 3, sizes, channels, 2, torch.float16)
    arguments = {"pages": torch.tensor([[2, 0], [1, 2]]), "k": 2, "sizes": sizes, "mode": mode}
    expected, places = nearest_pixels(query, pool, **arguments, backend="reference")
    for prune, precision in WAYS:
        d, matches = nearest_pixels(query, pool, **arguments, backend="torch", prune=prune, precision=precision)
        torch.testing.assert_close(d, expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(matches, places), f"with {prune=} {precision=}"


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


@pytest.mark.parametrize(("prune", "precision"), WAYS)
@pytest.mark.parametrize("mode", MODES)
def test_features_that_are_not_finite_leave_matches_in_range(mode, prune, precision):
    sizes = [(8, 8), (4, 4)]
    query = pyramid_of("random", 1, sizes, (3, 4), 1, torch.float32)
    pool = pyramid_of("random", 2, sizes, (3, 4), 2, torch.float16)
    query[0][0, 5], pool[1][1, 3] = float("nan"), float("inf")
    options = {"mode": mode, "prune": prune, "precision": precision, "backend": "torch"}
    for k in (1, 3):
        _, matches = nearest_pixels(query, pool, torch.tensor([[0, 1]]), k, **options)
        assert 0 <= matches.min() <= matches.max() < 2 * 64


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
        """A pixel whose channels are 1, each but for so many steps of half of what bfloat16 resolves."""
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
