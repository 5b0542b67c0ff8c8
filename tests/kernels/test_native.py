"""The native backend: the same bits with every instruction set and number of threads, and what it leaves to torch."""

import pytest
import torch

from spade_index.kernels import nearest_pixels
from spade_index.kernels.native import library, plan
from spade_index.kernels.native import search as native
from spade_index.kernels.native.cells import SIDE, cells_of

from helpers.kernel_cases import LARGER, MODES, NATIVE, NESTED, OTHER, alike_search, assert_same, random_search

SIZES = [(16, 16), (8, 8), (4, 4)]
PAGES = torch.tensor([[2, 0, 1, 1], [1, 2, 0, 3]])
SEARCHES = [(mode, window) for mode in MODES for window in (None, 2)]


def search_of(sizes=SIZES, pages=PAGES, mode="concat-nearest", window=None, k=2):
    """Return the arguments of a search of smooth maps."""
    query, pool = alike_search(sizes, len(pages), 4)
    return {"query": query, "pool": pool, "pages": pages, "k": k, "sizes": sizes, "mode": mode, "window": window}


def test_it_was_compiled():
    assert library.absence() is None, "install g++ and remove .venv/.ready"


@pytest.mark.parametrize("window", [None, 1])
@pytest.mark.parametrize("kind", ["random", "offset", "near-duplicate images"])
def test_every_instruction_set_gives_the_same_bits(kind, window):
    query, pool = random_search(SIZES, 2, 4, kind)
    options = {"sizes": SIZES, "weights": [0.5, 2.0, 1.0], "mode": "concat-nearest", "window": window}
    sets = library.instruction_sets()
    expected = native.nearest_pixels(query, pool, PAGES, 3, **options, instructions=sets[0])
    for name in sets[1:]:
        found = native.nearest_pixels(query, pool, PAGES, 3, **options, instructions=name)
        assert_same(found, expected, f"with {name}")


@pytest.mark.parametrize(("mode", "window"), SEARCHES)
@pytest.mark.parametrize("pages", [PAGES, PAGES[:1, :1]], ids=["several maps", "one map"])
def test_threads_change_nothing(pages, mode, window):
    search = search_of(pages=pages, mode=mode, window=window)
    expected = nearest_pixels(**search, **NATIVE)
    for threads in (2, 3, 40):
        torch.set_num_threads(threads)
        try:
            for _ in range(3):
                assert_same(nearest_pixels(**search, **NATIVE), expected, f"in {threads} threads")
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(1)


@pytest.mark.parametrize(("mode", "window"), SEARCHES)
def test_queries_together_give_what_each_gives_alone(mode, window):
    search = search_of(mode=mode, window=window)
    together = nearest_pixels(**search, **NATIVE)
    for number in range(len(PAGES)):
        one = slice(number, number + 1)
        alone = search | {"query": [level[one] for level in search["query"]], "pages": PAGES[one]}
        assert_same(nearest_pixels(**alone, **NATIVE), tuple(of[one] for of in together))


@pytest.mark.parametrize("k", [1, 3])
def test_more_candidates_than_there_is_room_for_are_searched_by_torch(k, monkeypatch):
    searched = []

    def in_torch(query, *args, **options):
        searched.append(len(query[0]))
        return nearest_pixels(query, *args, backend="torch", **options)

    monkeypatch.setattr(native, "search_in_torch", in_torch)
    query, pool = random_search(SIZES, 2, 3)
    for level in (*query[:1], *query[1:]):
        level[1] = 0
    for level in pool:
        level[:] = level[:, :1]  # all pixels of the gallery are equal
    search = {"query": query, "pool": pool, "pages": torch.tensor([[1, 0], [2, 0]]), "k": k, "sizes": SIZES}
    expected = nearest_pixels(**search, backend="reference")
    monkeypatch.setattr(native, "ROOM", 1)
    found = nearest_pixels(**search, **NATIVE)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
    assert torch.equal(found[1], expected[1])
    assert sum(searched) == 2


def test_separated_pixels_are_not_searched_by_torch(monkeypatch):
    monkeypatch.setattr(native, "search_in_torch", None)
    for sizes in NESTED + OTHER + LARGER:
        query, pool = random_search(sizes)
        nearest_pixels(query, pool, torch.tensor([[2, 0], [1, 2]]), sizes=sizes, **NATIVE)


def test_as_many_neighbours_as_there_are_pixels_are_sorted():
    search = search_of([(8, 8), (4, 4)], k=native.MOST_NEIGHBOURS + 1)
    expected = nearest_pixels(**search, backend="torch")
    assert_same(nearest_pixels(**search, **NATIVE), expected)


@pytest.mark.parametrize("sizes", NESTED + OTHER + LARGER, ids=str)
def test_cells_hold_every_pixel_once_in_whole_tiles(sizes):
    stored = cells_of(tuple(sizes))
    for (h, w), order in zip(sizes, stored.orders, strict=True):
        pixels = order[order >= 0]
        assert len(order) % SIDE == 0
        assert torch.equal(pixels.sort().values, torch.arange(h * w, dtype=torch.int32))
    assert len(stored.orders[0]) == stored.planes * stored.cells


def test_memory_is_what_was_said():
    query, pool = random_search(SIZES)
    one = plan.Plan(pool, SIZES, [1.0] * 3, 2)
    search = native._Search(one, 0, [level[:1] for level in query], torch.tensor([[0, 1]]), 3)
    kept = [search.best, search.kth, search.root, search.kept]
    of_query = search.queries[0]
    kept += [*of_query.tiles, *of_query.norms, of_query.moved, of_query.total]
    said = one.query_bytes(3)
    assert 0.9 * said <= sum(tensor.numel() * tensor.element_size() for tensor in kept) <= 1.2 * said
