"""Pruning changes no answer, and a query's answer does not depend on its batch."""

from itertools import product

import pytest
import torch

from spade_index.kernels import nearest_pixels
from spade_index.kernels.torch_backend import prune as torch_prune
from spade_index.kernels.torch_backend import search as torch_backend
from spade_index.kernels.torch_backend.search import SearchStats

from helpers.kernel_cases import (
    MODES,
    NESTED,
    OTHER,
    PRECISIONS,
    PRUNE,
    alike_search,
    assert_same,
    pyramid_of,
    random_search,
)

SIZES = [(32, 32), (16, 16), (8, 8)]
PRIME = [(29, 31), (13, 17), (7, 5)]


def search(query, pool, pages, k=1, sizes=SIZES, mode="concat-nearest", **options):
    """Return the answer of the torch backend, and its counts."""
    stats = SearchStats()
    weights = [1.0] * len(sizes)
    found = torch_backend.nearest_pixels(
        query, pool, pages, k, sizes=sizes, weights=weights, mode=mode, stats=stats, **options
    )
    return found, stats


def unlike_search():
    """Features whose finest level has most of the distance: the coarse ones rule out nothing."""
    channels = (32, 2, 2)
    query = pyramid_of("random", 1, SIZES, channels, 1, torch.float32)
    return query, pyramid_of("random", 3, SIZES, channels, 2, torch.float16)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("sizes", [SIZES, PRIME], ids=["nested", "prime"])
def test_pruning_skips_most_and_changes_nothing(sizes, k, precision):
    query, pool = alike_search(sizes)
    pages = torch.tensor([[2, 0, 3, 1]])
    dense, all_of_it = search(query, pool, pages, k, sizes, prune=False, precision=precision)
    assert all_of_it.compared == all_of_it.pairs > 0
    for prune in (True, None):
        pruned, stats = search(query, pool, pages, k, sizes, prune=prune, precision=precision)
        assert stats.pairs == all_of_it.pairs
        assert stats.compared < 0.5 * stats.pairs
        assert_same(pruned, dense, f"with {prune=}")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_everything_is_compared_where_coarse_levels_rule_out_little(precision):
    query, pool = unlike_search()
    pages = torch.tensor([[1, 2, 0]])
    expected, _ = search(query, pool, pages, 2, prune=False, precision=precision)
    found, stats = search(query, pool, pages, 2, precision=precision)
    assert stats.compared == stats.pairs
    assert_same(found, expected, "by default")
    found, stats = search(query, pool, pages, 2, prune=True, precision=precision)
    assert 0 < stats.compared <= stats.pairs
    assert_same(found, expected, "when pruned")


@pytest.mark.parametrize("make", [alike_search, unlike_search], ids=["alike", "unlike"])
def test_pruned_and_dense_searches_give_the_same_answer(make, monkeypatch):
    query, pool = make()
    pages = torch.tensor([[1, 2, 0]])
    expected, _ = search(query, pool, pages, 2, prune=False)
    monkeypatch.setattr(torch_prune, "WORTHWHILE", 0)
    dense, stats = search(query, pool, pages, 2)
    assert stats.compared == stats.pairs
    monkeypatch.setattr(torch_prune, "WORTHWHILE", 1)
    monkeypatch.setattr(torch_prune, "HOPELESS", 1)
    pruned, stats = search(query, pool, pages, 2)
    if make is alike_search:
        assert stats.compared < 0.5 * stats.pairs
    assert_same(dense, expected, "densely")
    assert_same(pruned, expected, "pruned")


@pytest.mark.parametrize("mode", ["concat-bilinear", "per-level"])
def test_modes_without_coarse_bounds_compare_everything(mode):
    sizes = [(8, 8), (4, 4)]
    query, pool = random_search(sizes)
    pages = torch.tensor([[0, 1], [2, 1]])
    expected, _ = search(query, pool, pages, sizes=sizes, mode=mode, prune=False)
    for prune in PRUNE:
        found, stats = search(query, pool, pages, sizes=sizes, mode=mode, prune=prune)
        assert stats.compared == stats.pairs > 0
        assert_same(found, expected, f"with {prune=}")


def test_counts_are_of_all_queries_and_add_up_over_calls():
    query, pool = alike_search([(8, 8), (4, 4)], batch=2)
    stats = SearchStats()
    for _ in range(2):
        torch_backend.nearest_pixels(
            query, pool, torch.tensor([[0, 1, 2], [3, 1, 1]]), sizes=[(8, 8), (4, 4)], weights=[1, 1],
            mode="concat-nearest", prune=False, stats=stats,
        )  # fmt: skip
    # Three maps for each query, those that a page has again too, and a pair is a pixel and a cell of 2x2 pixels.
    assert stats.compared == stats.pairs == 2 * 6 * 64 * 16


@pytest.mark.parametrize(("prune", "precision"), list(product(PRUNE, PRECISIONS)))
@pytest.mark.parametrize("k", [1, 4])
def test_fewer_cells_than_seeds(k, prune, precision):
    sizes = [(4, 4), (2, 2)]
    query, pool = alike_search(sizes, slots=2)
    pages = torch.tensor([[1]])
    expected = nearest_pixels(query, pool, pages, k, sizes=sizes, backend="reference")
    found, _ = search(query, pool, pages, k, sizes, prune=prune, precision=precision)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("prune", [True, None])
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_that_prune_change_nothing(threads, prune):
    query, pool = alike_search(batch=2, slots=7)
    pages = torch.tensor([[6, 2, 4, 0, 1], [3, 5, 4, 2, 6]])
    expected, _ = search(query, pool, pages, 2, prune=False)
    torch.set_num_threads(threads)
    try:
        found, _ = search(query, pool, pages, 2, prune=prune)
    finally:
        torch.set_num_threads(1)
    assert_same(found, expected)


def of_company(mode, sizes, kind):
    """Queries and pages that share maps in part, in other orders, and with a map twice in a page."""
    if kind == "alike":
        query, pool = alike_search(sizes, batch=5, slots=5)
    else:
        query, pool = random_search(sizes, 5, 5)
    pages = torch.tensor([[2, 0, 4], [1, 2, 3], [2, 0, 4], [4, 4, 1], [4, 2, 0]])
    return query, pool, pages, {"k": 3, "sizes": sizes, "mode": mode}


@pytest.mark.parametrize("kind", ["random", "alike"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes", [NESTED[0], OTHER[2], [(16, 16), (8, 8), (4, 4)]], ids=str)
def test_an_answer_does_not_depend_on_the_batch(sizes, mode, kind):
    query, pool, pages, arguments = of_company(mode, sizes, kind)
    for prune, precision in product(PRUNE, PRECISIONS):
        options = arguments | {"prune": prune, "precision": precision}
        d, matches = nearest_pixels(query, pool, pages, **options, backend="torch")
        for b in range(len(pages)):
            alone = nearest_pixels([q[b : b + 1] for q in query], pool, pages[b : b + 1], **options, backend="torch")
            assert_same(alone, (d[b : b + 1], matches[b : b + 1]), f"with {prune=} {precision=}")


@pytest.mark.parametrize("mode", MODES)
def test_the_order_of_a_batch_changes_nothing(mode):
    query, pool, pages, arguments = of_company(mode, [(16, 16), (8, 8), (4, 4)], "alike")
    order = torch.tensor([3, 0, 4, 2, 1])
    for prune, precision in product(PRUNE, PRECISIONS):
        options = arguments | {"prune": prune, "precision": precision}
        d, matches = nearest_pixels(query, pool, pages, **options, backend="torch")
        found = nearest_pixels([q[order] for q in query], pool, pages[order], **options, backend="torch")
        assert_same(found, (d[order], matches[order]), f"with {prune=} {precision=}")
