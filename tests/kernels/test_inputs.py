"""Searches on a processor under unusual conditions: features that are not finite, inference mode, torch's precision."""

from itertools import product

import pytest
import torch

from spade_index.kernels import nearest_pixels
from spade_index.kernels.torch_backend import search as torch_backend

from helpers.kernel_cases import CPU_WAYS, MODES, assert_same, pyramid_of, random_search

SIZES = [(8, 8), (4, 4)]
NOT_FINITE = [float("nan"), float("inf")]
GALLERY = list(product(MODES, [0, 1]))


def answers(query, pool, pages, k, mode, sizes=SIZES):
    """The answer of each way of searching, with a note of which it is."""
    for way in CPU_WAYS:
        yield nearest_pixels(query, pool, pages, k, sizes=sizes, mode=mode, **way), f"with {way}"


def assert_close(found, expected, note):
    """Assert the same matches, and distances that differ by rounding only."""
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6, msg=lambda message: f"{message} {note}")
    assert torch.equal(found[1], expected[1]), f"matches differ {note}"


@pytest.fixture
def set_matmul_precision():
    """Return the function that sets the precision of float32 products, which is restored after the test."""
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
def test_a_gallery_map_that_is_not_finite_does_not_affect_other_results(mode, level, slot, bad):
    query, pool = random_search(SIZES, 1, 4)
    finite = [features.clone() for features in pool]
    finite[level][slot] = 200  # far away on this level, by which alone it is lost to all but per-level searches
    pool[level][slot, 1:3, 0] = bad
    pages = torch.tensor([[1, slot, 3]])
    expected = nearest_pixels(query, finite, pages, 3, mode=mode, backend="reference")
    for found, note in answers(query, pool, pages, 3, mode):
        assert_close(found, expected, note)


@pytest.mark.parametrize("bad", NOT_FINITE)
@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("mode", MODES)
def test_a_query_pixel_that_is_not_finite_does_not_affect_other_results(mode, level, bad):
    sizes, channels = [(16, 16), (8, 8)], (64, 40)
    query = pyramid_of("random", 2, sizes, channels, 1, torch.float32)
    pool = pyramid_of("random", 3, sizes, channels, 2, torch.float16)
    pages = torch.tensor([[2, 0], [1, 2]])
    query[level][0, 20, 1] = bad
    # Where the reference gives numbers, the pixel has no part in them.
    expected = nearest_pixels(query, pool, pages, 2, mode=mode, backend="reference")
    others = expected[0].isfinite().all(2)
    assert 0.9 * others.numel() < others.sum() < others.numel()
    for (d, matches), note in answers(query, pool, pages, 2, mode, sizes):
        assert_close((d[others], matches[others]), (expected[0][others], expected[1][others]), note)
        assert 0 <= matches.min() <= matches.max() < 2 * 256


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
def test_a_lower_precision_of_products_does_not_affect_the_search(mode, chosen, set_matmul_precision):
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
def test_a_failed_search_restores_the_precision_of_products(mode, set_matmul_precision, monkeypatch):
    def fail(*_):
        raise MemoryError

    set_matmul_precision("medium")
    monkeypatch.setattr(torch_backend, "measure", fail)
    with pytest.raises(MemoryError):
        nearest_pixels(*random_search(SIZES, 1, 2), torch.tensor([[0, 1]]), mode=mode, backend="torch")
    assert torch.get_float32_matmul_precision() == "medium"
