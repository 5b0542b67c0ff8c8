"""The Triton kernels in the interpreter: each is compared with the plain kernel, and all of them with the reference."""

import math

import pytest
import torch

from spade_index.kernels import nearest_pixels

from helpers.interpreter import search_unchanged
from helpers.kernel_cases import assert_right, pyramid_of, scale

SIZES = {
    "halves": [(4, 4), (2, 2)],
    "halves twice": [(4, 4), (2, 2), (1, 2)],
    "two planes of more cells than a block": [(2, 17), (1, 17)],
    "one level of more cells than a block": [(3, 7)],
    "one pixel": [(1, 1)],
    "nine planes": [(3, 6), (1, 2)],
    "one plane under coarse levels": [(3, 7), (3, 7), (1, 7)],
    "unequal cells": [(5, 5), (3, 3)],
    "does not nest": [(3, 4), (3, 3), (2, 2)],
    "five levels": [(2, 8), (1, 4), (1, 4), (1, 2), (1, 1)],
    "five levels that do not nest": [(5, 4), (3, 4), (3, 2), (2, 2), (1, 1)],
    "eight pixels": [(2, 4), (1, 2)],
    "nine pixels in unequal cells": [(3, 3), (2, 2)],
}
CHANNELS = (17, 1, 40, 3, 2)  # up to three of the small tiles
FEW_CHANNELS = (5, 3, 7, 2, 1)
WEIGHTS = [0.5, 2.0, 1.5, 1.0, 0.0]


@pytest.fixture
def searched(interpreter):
    """Search with Triton in small tiles, every kernel checked: see `Interpreter.search`."""
    return interpreter.search


def integers(count, sizes, channels, seed, dtype=torch.float32):
    """Return levels of small integers, whose products are exact in every type."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(-3, 4, (count, h * w, c), generator=generator).to(dtype)
        for (h, w), c in zip(sizes, channels, strict=False)
    ]


def integer_search(sizes, dtype=torch.float16, pages=((2, 0, 2),), k=1, channels=CHANNELS, weights=WEIGHTS):
    """Return a search of integers, with a map twice in a page."""
    query, pool = integers(len(pages), sizes, channels, 1), integers(3, sizes, channels, 2, dtype)
    return {
        "query": query, "pool": pool, "pages": torch.tensor(pages), "k": k, "sizes": list(sizes),
        "weights": weights and weights[: len(sizes)], "mode": "concat-nearest",
    }  # fmt: skip


def random_search(sizes, dtype=torch.float16, pages=((2, 0), (1, 2)), k=2, channels=FEW_CHANNELS):
    """Return a search of random features, whose distances are all different."""
    query = pyramid_of("random", len(pages), sizes, channels[: len(sizes)], 1, torch.float32)
    pool = pyramid_of("random", 3, sizes, channels[: len(sizes)], 2, dtype)
    search = integer_search(sizes, dtype, pages, k, channels)
    return search | {"query": query, "pool": pool}


def assert_matches(search, found):
    """Assert the reference's very matches."""
    expected = nearest_pixels(**search, backend="reference")
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-7 * scale(search))
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("name", SIZES)
def test_every_kernel_agrees_with_the_plain_one(name, searched):
    search = integer_search(SIZES[name])
    assert_right(search, searched(search), nearest_pixels(**search, backend="reference")[0], 1e-5, 1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["halves twice", "does not nest"])
def test_maps_of_every_type(name, dtype, searched):
    search = random_search(SIZES[name], dtype)
    assert_matches(search, searched(search))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_queries_in_half_precision(dtype, searched):
    search = random_search(SIZES["eight pixels"])
    search["query"] = [level.to(dtype) for level in search["query"]]
    assert_matches(search, searched(search))


@pytest.mark.parametrize(
    ("sizes", "channels", "dtype"),
    [
        ([(4, 4), (2, 2)], (24, 40), torch.float16),
        ([(3, 7), (3, 7)], (260, 70), torch.float16),  # more than one tile of channels
        ([(3, 3), (2, 2)], (130, 33), torch.float32),
        ([(1, 65)], (3,), torch.bfloat16),  # more cells than a block
    ],
    ids=str,
)
def test_the_backend_with_its_own_tiles(sizes, channels, dtype, interpreter):
    search = random_search(sizes, dtype, [[2, 0]], 1, channels)
    assert_matches(search, interpreter.call(search_unchanged, search))


@pytest.mark.parametrize(("k", "extra"), [(3, 0), (10, 2)])
def test_many_matches(k, extra, searched):
    search = random_search([(1, 18)], pages=[[2, 0, 1, 2]], k=k)
    assert_matches(search, searched(search, extra=extra))


def test_weights_of_zero(searched):
    search = random_search(SIZES["eight pixels"]) | {"weights": [0.0, 1.0], "k": 4}
    found = searched(search)
    assert_right(search, found, nearest_pixels(**search, backend="reference")[0], 1e-5, 1e-6)


@pytest.mark.parametrize("size", [1e5, 1e15])
def test_queries_beyond_float16(size, searched):
    """The nearest is what lies furthest in the query's direction."""
    search = random_search(SIZES["eight pixels"], k=1)
    search["query"] = [size * level.sign() for level in search["query"]]
    search["pool"] = [(1e4 * level).clamp(-6e4, 6e4) for level in search["pool"]]
    if size < 1e10:
        assert_matches(search, searched(search))
    else:  # float32 no longer tells the distances apart
        expected, _ = nearest_pixels(**search, backend="reference")
        assert_right(search, searched(search), expected, 1e-5, 1e-6)


def test_distances_that_overflow_are_infinite(searched):
    search = random_search(SIZES["eight pixels"])
    search["query"] = [1e30 * level for level in search["query"]]
    d, matches = searched(search)
    assert (d == math.inf).all()
    assert 0 <= matches.min() <= matches.max() < 2 * 8


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_features_near_the_least_float16(dtype, searched):
    """Steps of the least number that float16 has."""
    search = integer_search(SIZES["eight pixels"], dtype, weights=None)
    search["query"] = [2.0**-24 * level for level in search["query"]]
    search["pool"] = [(2.0**-24 * level.float()).to(dtype) for level in search["pool"]]
    assert all(level.unique().numel() == 7 for level in search["pool"][:1])
    found = searched(search)
    expected, _ = nearest_pixels(**search, backend="reference")
    assert_right(search, found, expected, 1e-5, 1e-6)
    assert_matches(search, found)


def test_tiny_queries_are_nearest_to_small_features(searched):
    search = random_search(SIZES["eight pixels"], torch.float32)
    search["query"] = [1e-30 * level for level in search["query"]]
    assert_matches(search, searched(search))


@pytest.mark.parametrize(
    "name", ["eight pixels", "nine pixels in unequal cells", "one level of more cells than a block"]
)
def test_equal_distances_go_to_the_lowest_match(name, searched):
    """A gallery of one value: of the blocks that are equally near, the first ones are looked into."""
    search = integer_search(SIZES[name], pages=[[1, 0, 1, 2]], k=2, channels=FEW_CHANNELS)
    search["pool"] = [level[:1, :1].expand_as(level).contiguous() for level in search["pool"]]
    _, matches = searched(search)
    pixels = search["query"][0].shape[1]
    assert torch.equal(matches, torch.arange(2).expand(1, pixels, 2))


@pytest.mark.parametrize("memory", [(1, 1), (1, 100)], ids=["pages in parts of two", "queries and maps alone"])
@pytest.mark.parametrize("name", ["eight pixels", "nine pixels in unequal cells"])
def test_parts_of_batches_and_pages_give_the_same(name, memory, searched):
    search = random_search(SIZES[name], pages=[[2, 0, 1], [1, 2, 0]])
    assert_matches(search, searched(search | {"working_memory": 3}, memory=memory))


@pytest.mark.parametrize(
    "name", ["eight pixels", "nine pixels in unequal cells", "one level of more cells than a block"]
)
def test_maps_in_the_fused_layout_beside_slots_of_nan(name, searched):
    search = random_search(SIZES[name], pages=[[2, 0, 2]])
    found = searched(search, slots=[5, 1, 3])
    assert_matches(search, found)
