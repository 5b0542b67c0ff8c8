"""The search in a window, by every backend: against the reference, and its ties, buffers and arguments."""

import os
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spade_index.kernels import nearest_pixels, split_matches, torch_backend
from spade_index.kernels.fused.maps import FusedMaps
from spade_index.kernels.fused.search import search as fused_search
from spade_index.kernels.window import cells_at_corner

from helpers import backends
from helpers.kernel_cases import MODES, assert_right, assert_same, random_search
from helpers.plain_kernels import PlainKernels

EXAMPLES = os.environ.get("SPADE_INDEX_EXAMPLES")
WINDOWS = [0, 1, 2, 3, 5, 100]
BACKENDS = backends.BACKENDS
FEW_MODES = {"triton": MODES[:1]}  # the others add nothing to these tests but time in the interpreter
PYRAMIDS = {"triton": ([(3, 4), (3, 2)], [(4, 4), (2, 2)], [(5, 3)], [(1, 18)])}
PYRAMIDS_OF = [
    (name, sizes, FEW_MODES.get(name, MODES))
    for name in BACKENDS
    for sizes in PYRAMIDS.get(name, backends.Backend.pyramids)
]
every_backend = pytest.mark.parametrize("backend", BACKENDS, indirect=True)
every_backend_and_mode = pytest.mark.parametrize(
    ("backend", "mode"),
    [(name, mode) for name in BACKENDS for mode in FEW_MODES.get(name, MODES)],
    indirect=["backend"],
)


@pytest.fixture
def backend(request):
    """The backend of a name; Triton's interpreter starts for the first test that needs it."""
    if request.param == "triton":
        return backends.triton_backend(request.getfixturevalue("interpreter"))
    of = {"torch": backends.torch_backend, "native": backends.native_backend, "fused": backends.fused_backend}
    return of[request.param]()


def most(search):
    """Return the most matches that a search may ask for."""
    sizes = search["sizes"] if search["mode"] == "per-level" else search["sizes"][:1]
    return search["pages"].shape[1] * min(cells_at_corner(size, search["window"]) for size in sizes)


@st.composite
def windowed(draw, searches):
    """Draw a search in a window."""
    search = draw(searches)
    search |= {"window": draw(st.sampled_from(WINDOWS)), "mode": draw(st.sampled_from(MODES))}
    return search | {"k": draw(st.integers(1, min(10, most(search))))}


def window_search(sizes, mode="concat-nearest", window=1, k=2, pages=((2, 0), (1, 2))):
    """Return a search of random features in a window."""
    query, pool = random_search(sizes, len(pages))
    search = {"query": query, "pool": pool, "pages": torch.tensor(pages), "sizes": list(sizes)}
    search |= {"mode": mode, "window": window}
    return search | {"k": min(k, most(search))}


def reference(search):
    """Return the reference's answer."""
    return nearest_pixels(**search, backend="reference")


def assert_matches(found, expected, note=""):
    """Assert the very matches, and distances that differ by rounding only."""
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6, msg=lambda message: f"{message} {note}")
    assert torch.equal(found[1], expected[1]), f"matches differ {note}"


def assert_within(search, matches):
    """Assert that matches [B, P, k] are in the window of their pixels."""
    h, w = search["sizes"][0]
    _, there = split_matches(matches, h * w)
    here = torch.arange(h * w)[None, :, None]
    assert (there // w - here // w).abs().max() <= search["window"]
    assert (there % w - here % w).abs().max() <= search["window"]


@every_backend
def test_every_search_agrees_with_the_reference(backend):
    @settings(max_examples=int(EXAMPLES or backend.examples), deadline=None, derandomize=EXAMPLES is None)
    @given(windowed(backend.searches), backend.drawn_ways)
    def check(search, way):
        found = backend.find(**search, **way)
        assert_right(search, found, reference(search)[0], 1e-4, 1e-6)
        assert_within(search, found[1])

    check()


@pytest.mark.parametrize(("backend", "sizes", "modes"), PYRAMIDS_OF, indirect=["backend"], ids=str)
@pytest.mark.parametrize("window", [0, 1, 2])
def test_separated_features_give_the_very_matches(backend, sizes, modes, window):
    for mode in modes:
        search = window_search(sizes, mode, window, k=3)
        assert_matches(backend.find(**search), reference(search), f"in {mode}")


@pytest.mark.parametrize("sizes", [[(4, 4), (2, 2)], [(5, 3), (3, 3)], [(1, 6)], [(6, 1), (3, 1)]], ids=str)
@every_backend_and_mode
def test_a_window_of_the_whole_grid_is_no_window(backend, sizes, mode):
    search = window_search(sizes, mode, None)
    for window in (max(sizes[0]) - 1, 100):
        found = nearest_pixels(**(search | {"window": window}), backend="torch")
        assert_same(found, nearest_pixels(**search, backend="torch"))
    if backend.few_ways == ({},):  # the kernels themselves, to which such a window is one like others
        assert_matches(backend.find(**(search | {"window": 100})), reference(search))


@pytest.mark.parametrize("mode", MODES)
def test_the_torch_backend_searches_a_window_of_the_whole_grid(mode):
    sizes = [(7, 5), (4, 5), (2, 2)]
    search = window_search(sizes, mode, None)
    found = torch_backend.nearest_pixels(**(search | {"window": 100}), weights=[1.0] * 3)
    assert_matches(found, reference(search))


@every_backend
@pytest.mark.parametrize("share", ["all pixels of a map", "all maps"])
@pytest.mark.parametrize(("window", "k"), [(0, 2), (1, 1), (1, 4), (2, 3)])
def test_equal_distances_go_to_the_lowest_match(backend, window, k, share):
    for pages in ([[0, 0, 0]], [[1, 0, 1]], [[2, 1, 0]]):
        search = window_search(backend.sizes, window=window, k=k, pages=pages)
        for level in search["pool"]:
            level[:] = level[:, :1] if share == "all pixels of a map" else level[:1]
        assert_matches(backend.find(**search), reference(search), f"{pages}")


@every_backend_and_mode
def test_little_working_memory_gives_the_same(backend, mode):
    search = window_search(backend.sizes, mode, pages=[[2, 0, 1, 1], [1, 2, 0, 2]])
    whole = backend.find(**search)
    for memory in (1, 20_000, 60_000):
        assert_same(backend.find(**search, working_memory=memory), whole, f"with {memory} bytes")


@pytest.mark.parametrize("mode", MODES)
def test_threads_change_nothing(mode):
    search = window_search([(8, 8), (4, 4)], mode, pages=[[2, 0, 1, 1, 2], [1, 2, 0, 2, 1]])
    expected = nearest_pixels(**search, backend="torch")
    for threads in (2, 3):
        torch.set_num_threads(threads)
        try:
            assert_same(nearest_pixels(**search, backend="torch"), expected)
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(1)


@every_backend_and_mode
def test_no_queries_give_no_answers(backend, mode):
    search = window_search(backend.sizes, mode) | {"pages": torch.zeros(0, 3, dtype=torch.int64)}
    search["query"] = [level[:0] for level in search["query"]]
    for d, matches in (backend.find(**search), reference(search)):
        assert d.shape == matches.shape == (0, search["query"][0].shape[1], 2)


@pytest.mark.parametrize("backend", ["torch", "native", "fused"], indirect=True)
@pytest.mark.parametrize("k", [1, 3])
def test_features_that_are_not_finite_leave_matches_in_the_window(backend, k):
    search = window_search(backend.sizes, k=k)
    search["query"][0][0, 5], search["pool"][0][:, 9] = float("nan"), float("inf")
    search["query"][0][1] = float("inf")
    _, matches = backend.find(**search)
    assert 0 <= matches.min() <= matches.max() < 2 * 64
    assert_within(search, matches)


@pytest.mark.parametrize("sizes", [[(4, 4), (2, 2)], [(5, 5), (3, 3)]], ids=str)
def test_maps_in_the_fused_layout_beside_slots_of_nan(sizes, interpreter):
    search = window_search(sizes, pages=[[2, 0, 2]]) | {"weights": [0.5, 2.0]}
    expected = reference(search)
    assert_matches(interpreter.search(search, slots=[5, 1, 3]), expected)
    channels = [level.shape[2] for level in search["pool"]]
    maps = FusedMaps.empty(3, sizes, channels, torch.float16, torch.device("cpu"))
    maps.write(torch.arange(3), search["pool"])
    assert_matches(fused_search(PlainKernels, **(search | {"pool": maps})), expected)


@pytest.mark.parametrize("mode", MODES[:2])
def test_distances_that_overflow_are_matched_in_the_window(mode):
    search = window_search([(4, 4), (2, 2)], mode)
    search["query"] = [1e30 * level for level in search["query"]]
    d, matches = nearest_pixels(**search, backend="torch")
    assert d.isinf().all()
    assert_within(search, matches)


@pytest.mark.parametrize("window", [-1, True, 1.0, "1"])
def test_a_window_is_a_number_of_cells(window):
    search = window_search([(4, 4)]) | {"window": window}
    with pytest.raises(ValueError, match=rf"^window must be a number of cells >= 0, or None, not {window!r}$"):
        nearest_pixels(**search)


@pytest.mark.parametrize(
    ("sizes", "mode", "window", "most"),
    [
        ([(8, 8), (4, 4)], "concat-nearest", 0, 2),
        ([(8, 8), (4, 4)], "concat-bilinear", 1, 8),
        ([(8, 3), (4, 3)], "concat-nearest", 4, 30),
        ([(8, 8), (1, 4)], "per-level", 2, 6),
        ([(8, 8), (4, 4)], "per-level", 7, 32),
    ],
)
def test_a_corner_has_as_many_matches_as_k_asks_for(sizes, mode, window, most):
    query, pool = random_search(sizes)
    find = partial(nearest_pixels, query, pool, torch.tensor([[2, 0], [1, 2]]), sizes=sizes, mode=mode, window=window)
    assert find(most)[1].shape[2] == most
    with pytest.raises(ValueError, match=rf"^k must be 1\.\.{most}, the gallery pixels of a query, not {most + 1}$"):
        find(most + 1)
