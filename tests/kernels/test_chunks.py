"""Which maps are loaded together: all that queries want, once for each, and few of them at a time."""

from hypothesis import given
from hypothesis import strategies as st

from spade_index.kernels.torch_backend.chunks import chunks_of

PAGES = st.integers(1, 7).flatmap(
    lambda neighbours: st.lists(
        st.lists(st.integers(0, 9), min_size=neighbours, max_size=neighbours), min_size=1, max_size=5
    )
)


@given(PAGES, st.integers(1, 4), st.integers(1, 3), st.sampled_from([100, 10_000_000]))
def test_every_query_gets_its_page_once(pages: list[list[int]], maps: int, threads: int, values: int) -> None:
    found = []
    for chunk in chunks_of(pages, maps, threads, values):
        assert 1 <= len(chunk.slots) <= maps
        for query, positions in chunk.wanted:
            assert [pages[query][position] for position in positions] == chunk.slots
            found += [(query, position) for position in positions]
    assert sorted(found) == [(query, position) for query, page in enumerate(pages) for position in range(len(page))]


def test_maps_that_all_want_are_loaded_once() -> None:
    pages = [list(range(20))] * 8
    for values in (1_000, 1_000_000):
        chunks = chunks_of(pages, 10, 1, values)
        assert [len(chunk.slots) for chunk in chunks] == [10, 10]


def test_small_maps_that_few_share_are_loaded_for_each_query() -> None:
    pages = [[(37 * query + 11 * place) % 101 for place in range(50)] for query in range(8)]
    assert len(chunks_of(pages, 10, 2, 10_000)) == 8 * 5
    large = chunks_of(pages, 10, 2, 5_000_000)
    assert sorted(slot for chunk in large for slot in chunk.slots) == sorted({slot for page in pages for slot in page})
