"""The torch backend given what programs give it: features that are not finite, views, no queries, torch's settings."""

from itertools import product

import pytest
import torch

from spade_index.kernels import nearest_pixels
from spade_index.kernels.torch_backend import search as torch_backend

from helpers.kernel_cases import MODES, PRECISIONS, PRUNE, alike_search, assert_same, pyramid_of, random_search

WAYS = list(product(PRUNE, PRECISIONS))
FEW_WAYS = [(None, "float32"), (True, "fast"), (False, "float32")]
SIZES = [(8, 8), (4, 4)]
NOT_FINITE = [float("nan"), float("inf")]
GALLERY = list(product(MODES, [0, 1]))
QUERIES = [(0, WAYS), (1, WAYS)]


def answers(query, pool, pages, k, mode, ways=WAYS, sizes=SIZES):
    """The torch backend's answer for each way of searching, with a note of which it is."""
    for prune, precision in ways:
        options = {"sizes": sizes, "mode": mode, "prune": prune, "precision": precision, "backend": "torch"}
        yield nearest_pixels(query, pool, pages, k, **options), f"with {prune=} {precision=}"


def assert_close(found, expected, note):
    """That an answer is of the same matches, and of distances that differ by rounding only."""
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6, msg=lambda message: f"{message} {note}")
    assert torch.equal(found[1], expected[1]), f"matches differ {note}"


@pytest.fixture
def set_matmul_precision():
    """What sets the precision of float32 products for a test."""
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("bad", NOT_FINITE)
@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("mode", MODES)
def test_a_first_slot_that_is_not_finite_and_not_searched_changes_nothing(mode, level, bad):
    query, pool = random_search(SIZES, 1, 4)
    pages = torch.tensor([[3, 1, 2]])
    expected = nearest_pixels(query, pool, pages, 2, mode=mode, backend="reference")
    pool[level][0, 1, 0] = bad
    for found, note in answers(query, pool, pages, 2, mode):
        assert_close(found, expected, note)


@pytest.mark.parametrize("bad", NOT_FINITE)
@pytest.mark.parametrize("slot", [0, 2])
@pytest.mark.parametrize(("mode", "level"), GALLERY)
def test_a_gallery_map_that_is_not_finite_leaves_the_others_results_alone(mode, level, slot, bad):
    query, pool = random_search(SIZES, 1, 4)
    finite = [features.clone() for features in pool]
    finite[level][slot] = 200  # far away on this level, by which alone it is lost to all but per-level searches
    pool[level][slot, 1:3, 0] = bad
    pages = torch.tensor([[1, slot, 3]])
    expected = nearest_pixels(query, finite, pages, 3, mode=mode, backend="reference")
    for found, note in answers(query, pool, pages, 3, mode):
        assert_close(found, expected, note)


@pytest.mark.parametrize("bad", NOT_FINITE)
@pytest.mark.parametrize(("level", "ways"), QUERIES)
@pytest.mark.parametrize("mode", MODES)
def test_a_query_pixel_that_is_not_finite_leaves_the_others_results_alone(mode, level, ways, bad):
    sizes, channels = [(16, 16), (8, 8)], (64, 40)
    query = pyramid_of("random", 2, sizes, channels, 1, torch.float32)
    pool = pyramid_of("random", 3, sizes, channels, 2, torch.float16)
    pages = torch.tensor([[2, 0], [1, 2]])
    query[level][0, 20, 1] = bad
    # Where the reference gives numbers, the pixel has no part in them.
    expected = nearest_pixels(query, pool, pages, 2, mode=mode, backend="reference")
    others = expected[0].isfinite().all(2)
    assert 0.9 * others.numel() < others.sum() < others.numel()
    for (d, matches), note in answers(query, pool, pages, 2, mode, ways, sizes):
        assert_close((d[others], matches[others]), (expected[0][others], expected[1][others]), note)
        assert 0 <= matches.min() <= matches.max() < 2 * 256


def laid_out(levels, layout):
    """Views of other tensors that are equal to levels [N, H*W, C]."""
    if layout == "channels first":
        return [level.transpose(1, 2).contiguous().transpose(1, 2) for level in levels]
    if layout == "pixels outermost":
        return [level.transpose(0, 1).contiguous().transpose(0, 1) for level in levels]
    strided = [torch.full([2 * n for n in level.shape], 7, dtype=level.dtype) for level in levels]
    if layout == "every other":
        views = [level[1::2, ::2, 1::2] for level in strided]
    else:
        n, (_, pixels, channels) = len(levels[0]), zip(*(level.shape for level in levels), strict=True)
        views = [level[1 : n + 1, :p, :c] for level, p, c in zip(strided, pixels, channels, strict=True)]
    for view, level in zip(views, levels, strict=True):
        view.copy_(level)
    return views


@pytest.mark.parametrize("layout", ["channels first", "pixels outermost", "every other", "a part"])
@pytest.mark.parametrize("mode", MODES)
def test_views_are_as_good_as_what_they_show(mode, layout):
    query, pool = alike_search(SIZES, 2, 5)
    pages = torch.tensor([[2, 0, 4], [1, 2, 3]])
    as_views = laid_out(query, layout), laid_out(pool, layout), pages.T.contiguous().T
    assert not any(level.is_contiguous() for levels in as_views[:2] for level in levels)
    found = list(answers(*as_views, 2, mode, FEW_WAYS))
    for (expected, note), (answer, _) in zip(answers(query, pool, pages, 2, mode, FEW_WAYS), found, strict=True):
        assert_same(answer, expected, note)


@pytest.mark.parametrize("mode", MODES)
def test_some_slots_of_a_larger_pool_are_as_good_as_a_pool(mode):
    query, pool = alike_search(SIZES, 2, 5)
    pages = torch.tensor([[2, 0, 1], [1, 2, 2]])
    few, copied = [level[1:4] for level in pool], [level[1:4].clone() for level in pool]
    for (expected, note), (found, _) in zip(
        answers(query, copied, pages, 2, mode), answers(query, few, pages, 2, mode), strict=True
    ):
        assert_same(found, expected, note)


@pytest.mark.parametrize("slots", [0, 3])
@pytest.mark.parametrize("mode", MODES)
def test_no_queries_give_no_answers(mode, slots):
    query, pool = random_search(SIZES, 0, slots)
    for (d, matches), _ in answers(query, pool, torch.zeros(0, 3, dtype=torch.int64), 2, mode):
        assert d.shape == matches.shape == (0, 64, 2)
        assert (d.dtype, matches.dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize("mode", MODES)
def test_inference_mode_with_threads_gives_results_for_use_outside(mode):
    pages = torch.tensor([[3, 0, 4, 1], [1, 2, 0, 4]])
    expected = list(answers(*random_search(SIZES, 2, 5), pages, 2, mode))
    torch.set_num_threads(2)
    try:
        with torch.inference_mode():
            found = list(answers(*random_search(SIZES, 2, 5), pages.clone(), 2, mode))
    finally:
        torch.set_num_threads(1)
    for ((d, matches), note), (answer, _) in zip(found, expected, strict=True):
        assert_same((d, matches), answer, note)
        factor = torch.ones(1, requires_grad=True)
        (factor * d).sum().backward()  # keeps the distances, which those of inference mode do not allow
        torch.testing.assert_close(factor.grad, d.sum()[None])


@pytest.mark.parametrize("chosen", ["high", "medium"])
@pytest.mark.parametrize("mode", MODES)
def test_a_lower_precision_of_products_is_not_for_the_search(mode, chosen, set_matmul_precision):
    sizes = [(8, 8), (4, 4)]
    query, noise = (pyramid_of("random", 3, sizes, (128, 128), seed, torch.float32) for seed in (1, 2))
    pool = [(level[:1] + 0.02 * n).half() for level, n in zip(query, noise, strict=True)]  # all alike
    query = [level[:1] for level in query]
    pages = torch.tensor([[0, 1, 2]])
    expected = nearest_pixels(query, pool, pages, 2, mode=mode, backend="reference")
    set_matmul_precision(chosen)
    for found, note in answers(query, pool, pages, 2, mode, sizes=sizes):
        assert torch.get_float32_matmul_precision() == chosen, note
        assert_close(found, expected, note)


@pytest.mark.parametrize("mode", MODES)
def test_a_search_that_fails_leaves_the_precision_of_products_as_it_was(mode, set_matmul_precision, monkeypatch):
    def fail(*_):
        raise MemoryError

    set_matmul_precision("medium")
    monkeypatch.setattr(torch_backend, "measure", fail)
    with pytest.raises(MemoryError):
        nearest_pixels(*random_search(SIZES, 1, 2), torch.tensor([[0, 1]]), mode=mode, backend="torch")
    assert torch.get_float32_matmul_precision() == "medium"
