"""The contract that every backend of the pixel search fulfils, in each way in which it can search.

`SPADE_INDEX_EXAMPLES=10000 pytest tests/kernels/test_contract.py -k reference` tries other examples each time.
"""

import os

import pytest
import torch
from hypothesis import given, settings

from spade_index.kernels import nearest_pixels

from helpers.backends import BACKENDS, fused_backend, native_backend, torch_backend, triton_backend
from helpers.kernel_cases import MODES, alike_search, assert_right, assert_same, distances_at, random_search, scale

EXAMPLES = os.environ.get("SPADE_INDEX_EXAMPLES")
PYRAMIDS = {
    "torch": torch_backend().pyramids,
    "native": native_backend().pyramids,
    "fused": fused_backend().pyramids,
    "triton": triton_backend(None).pyramids,
}
NOT_FINITE = [float("nan"), float("inf")]
FEW_MODES = {"triton": MODES[:1]}  # the others add nothing to these tests but time in the interpreter
MODES_OF = [(name, mode) for name in BACKENDS for mode in FEW_MODES.get(name, MODES)]
every_backend_and_mode = pytest.mark.parametrize(("backend", "mode"), MODES_OF, indirect=["backend"])
every_backend = pytest.mark.parametrize("backend", BACKENDS, indirect=True)


@pytest.fixture
def backend(request):
    """The backend of a name; Triton's interpreter starts for the first test that needs it."""
    if request.param == "triton":
        return triton_backend(request.getfixturevalue("interpreter"))
    return {"torch": torch_backend, "native": native_backend, "fused": fused_backend}[request.param]()


def reference(search):
    """Return the reference's answer."""
    return nearest_pixels(**search, backend="reference")


def assert_matches(found, expected, note=""):
    """Assert the very matches, and distances that differ by rounding only."""
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6, msg=lambda message: f"{message} {note}")
    assert torch.equal(found[1], expected[1]), f"matches differ {note}"


@every_backend
def test_every_search_agrees_with_the_reference(backend):
    @settings(max_examples=int(EXAMPLES or backend.examples), deadline=None, derandomize=EXAMPLES is None)
    @given(backend.searches, backend.drawn_ways)
    def check(search, way):
        # Of the k least distances: relative to them, and to the largest squared norm of a pixel.
        rtol, atol = 1e-4, 1e-5 if way.get("precision") == "fast" else 1e-6
        found = backend.find(**search, **way)
        assert_right(search, found, reference(search)[0], rtol, atol)
        if search["mode"] == "per-level":
            level0 = search | {name: search[name][:1] for name in ("query", "pool", "sizes")} | {"weights": None}
            matched = distances_at(search, found[1]).float()
            torch.testing.assert_close(matched, reference(level0)[0], rtol=rtol, atol=atol * scale(level0))

    check()


@pytest.mark.parametrize(
    ("backend", "sizes", "mode"),
    [
        (name, sizes, mode)
        for name in BACKENDS
        for number, sizes in enumerate(PYRAMIDS[name])
        for mode in (FEW_MODES.get(name, MODES) if number else MODES)
    ],
    indirect=["backend"],
    ids=str,
)
def test_separated_features_give_the_very_matches(backend, sizes, mode):
    query, pool = random_search(sizes)
    k = min(3, 2 * min(h * w for h, w in sizes))
    search = {"query": query, "pool": pool, "pages": torch.tensor([[2, 0], [1, 2]]), "k": k}
    search |= {"sizes": sizes, "mode": mode}
    expected = reference(search)
    for found, note in backend.answers(search):
        assert_matches(found, expected, note)


@every_backend
@pytest.mark.parametrize("slots", [0, 3])
@pytest.mark.parametrize("mode", MODES)
def test_no_queries_give_no_answers(backend, mode, slots):
    query, pool = random_search(backend.sizes, 0, slots)
    search = {"query": query, "pool": pool, "pages": torch.zeros(0, 3, dtype=torch.int64), "k": 2}
    search |= {"sizes": backend.sizes, "mode": mode}
    for (d, matches), _ in [*backend.answers(search), (reference(search), "")]:
        assert d.shape == matches.shape == (0, query[0].shape[1], 2)
        assert (d.dtype, matches.dtype) == (torch.float32, torch.int64)


def laid_out(levels, layout):
    """Return views of other tensors that are equal to levels [N, H*W, C]."""
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


@every_backend_and_mode
@pytest.mark.parametrize("layout", ["channels first", "pixels outermost", "every other", "a part"])
def test_views_are_searched_like_copies_and_left_alone(backend, mode, layout):
    query, pool = alike_search(backend.sizes, 2, 5)
    pages = torch.tensor([[2, 0, 4], [1, 2, 3]])
    search = {"query": query, "pool": pool, "pages": pages, "k": 2, "sizes": backend.sizes, "mode": mode}
    views = [laid_out(side, layout) for side in (query, pool)]
    assert not any(level.is_contiguous() for side in views for level in side)
    for level in views[0] + views[1]:
        level.requires_grad_()
    shown = {"query": views[0], "pool": views[1], "pages": pages.T.contiguous().T}
    expected = backend.answers(search, backend.few_ways)
    for (found, note), (right, _) in zip(backend.answers(search | shown, backend.few_ways), expected, strict=True):
        assert_same(found, right, note)
        assert not found[0].requires_grad
    for side, copies in zip(views, (query, pool), strict=True):
        assert all(torch.equal(level, copy) for level, copy in zip(side, copies, strict=True))


@every_backend_and_mode
def test_some_slots_of_a_larger_pool_are_searched_like_a_pool_of_their_own(backend, mode):
    query, pool = alike_search(backend.sizes, 2, 5)
    search = {"query": query, "pages": torch.tensor([[2, 0, 1], [1, 2, 2]]), "k": 2}
    search |= {"sizes": backend.sizes, "mode": mode}
    copied = backend.answers(search | {"pool": [level[1:4].clone() for level in pool]})
    sliced = backend.answers(search | {"pool": [level[1:4] for level in pool]})
    for (found, note), (expected, _) in zip(sliced, copied, strict=True):
        assert_same(found, expected, note)


@every_backend
def test_ties_go_to_the_lowest_image_and_pixel(backend):
    search = {"query": [torch.zeros(1, 9, 2)], "pool": [torch.ones(3, 9, 2)], "pages": torch.tensor([[2, 0, 2]])}
    search |= {"k": 5, "sizes": [(3, 3)]}
    for (d, matches), note in [*backend.answers(search), (reference(search), "reference")]:
        assert torch.equal(d, torch.full((1, 9, 5), 2.0)), note
        assert torch.equal(matches, torch.arange(5).expand(1, 9, 5)), note


@every_backend
@pytest.mark.parametrize("share", ["all pixels of a map", "all maps"])
@pytest.mark.parametrize("k", [1, 4])
def test_equal_distances_go_to_the_lowest_match(backend, k, share):
    query, pool = random_search(backend.sizes, 1, 3)
    for level in pool:
        level[:] = level[:, :1] if share == "all pixels of a map" else level[:1]
    for pages in ([[0, 0, 0]], [[1, 0, 1]], [[2, 1, 0]]):
        search = {"query": query, "pool": pool, "pages": torch.tensor(pages), "k": k, "sizes": backend.sizes}
        expected = reference(search)
        for found, note in backend.answers(search):
            assert_matches(found, expected, f"{note} {pages}")


@every_backend_and_mode
@pytest.mark.parametrize("k", [1, 4])
def test_the_same_map_twice_gives_the_lower_position(backend, k, mode):
    query, pool = random_search(backend.sizes, 1, 3)
    pool = [level[:1].repeat(3, 1, 1) for level in pool]
    for pages in ([[0, 0, 0]], [[1, 0, 1]], [[2, 1, 2]]):
        search = {"query": query, "pool": pool, "pages": torch.tensor(pages), "k": k}
        search |= {"sizes": backend.sizes, "mode": mode}
        expected = reference(search)
        for found, note in backend.answers(search):
            assert_matches(found, expected, f"{note} {pages}")


@every_backend_and_mode
def test_little_working_memory_gives_the_same(backend, mode):
    query, pool = random_search(backend.sizes, 2, 4)
    search = {"query": query, "pool": pool, "pages": torch.tensor([[2, 0, 3], [1, 2, 0]]), "k": 2}
    search |= {"sizes": backend.sizes, "mode": mode}
    whole = backend.answers(search, backend.few_ways)
    for memory in (1, 20_000):
        parts = backend.answers(search | {"working_memory": memory}, backend.few_ways)
        for (found, note), (expected, _) in zip(parts, whole, strict=True):
            assert_same(found, expected, f"{note} {memory=}")


@pytest.mark.parametrize("backend", ["torch", "native", "fused"], indirect=True)
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_features_that_are_not_finite_leave_matches_in_range(backend, mode, k):
    query, pool = random_search(backend.sizes, 1, 2)
    query[0][0, 5], pool[1][1, 3] = NOT_FINITE
    search = {"query": query, "pool": pool, "pages": torch.tensor([[0, 1]]), "k": k, "sizes": backend.sizes}
    for (_, matches), note in backend.answers(search | {"mode": mode}):
        assert 0 <= matches.min() <= matches.max() < 2 * query[0].shape[1], note
