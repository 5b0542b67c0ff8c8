"""Inverted lists that several scan, each some of them: what is merged is what one process finds, to the bit."""

from collections.abc import Callable
from dataclasses import replace

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spade_index.errors import GalleryDamaged
from spade_index.gallery.index import build as build_module
from spade_index.gallery.index.build import build_index
from spade_index.gallery.index.index import Index
from spade_index.gallery.index.lists import Candidates, InvertedLists, Probes, merged
from spade_index.settings import IndexSettings

IMAGES, DIM = 400, 16
WAYS = {
    "flat": IndexSettings("flat", 0),
    "fp16": IndexSettings("fp16", 0),
    "sq8": IndexSettings("sq8", 0),
    "pq": IndexSettings("pq", 0),
    "components": IndexSettings("sq8", 6),
}
NONE = np.empty(0, np.int64)

Make = Callable[[str, int, int], Index]


def descriptors_of(seed: int, copies: int) -> np.ndarray:
    """Return descriptors, the first of which is there so many times, and others twice."""
    rng = np.random.default_rng(seed)
    descriptors = rng.normal(size=(IMAGES, DIM)).astype(np.float32)
    descriptors[IMAGES // 2 : IMAGES // 2 + 50] = descriptors[:50]
    descriptors[rng.permutation(IMAGES)[:copies]] = descriptors[0]
    return descriptors


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Build an index, once of a kind; keys are in no order."""
    folder = tmp_path_factory.mktemp("indexes")

    def made(way: str, seed: int, copies: int) -> Index:
        path = folder / f"{way}-{seed}-{copies}.faiss"
        descriptors, keys = descriptors_of(seed, copies), np.random.default_rng(seed).permutation(IMAGES) * 7 + 1
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(build_module, "EXACT_LIMIT", 100)
            patch.setattr(build_module, "LEAST_PER_LIST", 20)
            description = build_index(path, lambda: iter([(keys, descriptors)]), IMAGES, DIM, WAYS[way])
        return Index(path, description)

    return made


def lists_of(index: Index) -> InvertedLists:
    assert index.lists is not None
    return index.lists


def in_parts(index: Index, probes: Probes, part_of: np.ndarray, count: int, without: np.ndarray) -> list[np.ndarray]:
    """Return what processes find that scan the lists of a part each, merged."""
    found = []
    for part in range(part_of.max() + 1):
        queries, mine = probes.within(part_of == part)
        if len(queries):
            found.append((queries, lists_of(index).nearest(mine, count, without)))
    return list(merged(found, len(probes.queries), count))


@pytest.mark.parametrize("way", WAYS)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_parts_of_the_lists_find_what_one_process_finds(make: Make, way: str, data: st.DataObject) -> None:
    seed, copies = data.draw(st.integers(0, 2)), data.draw(st.sampled_from([1, 120]))
    index, descriptors = make(way, seed, copies), descriptors_of(seed, copies)
    lists = lists_of(index)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    queries = np.concatenate([descriptors[:2], rng.normal(size=(data.draw(st.integers(0, 4)), DIM))]).astype(np.float32)
    probes = lists.probes(lists.transformed(queries), data.draw(st.integers(1, lists.count)))
    count = data.draw(st.integers(1, 90))
    without = np.sort(rng.permutation(IMAGES)[: data.draw(st.sampled_from([0, 30, 390]))] * 7 + 1)
    whole = lists.nearest(probes, count, without)
    part_of = rng.integers(0, data.draw(st.integers(1, 5)), lists.count)
    for found, expected in zip(in_parts(index, probes, part_of, count, without), whole, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert not np.isin(whole.keys, without).any()


@pytest.mark.parametrize("way", WAYS)
def test_distances_are_those_of_faiss(make: Make, way: str) -> None:
    index, queries = make(way, 2, 1), np.random.default_rng(9).normal(size=(5, DIM)).astype(np.float32)
    faiss.extract_index_ivf(index._index).nprobe = index.description.nprobe
    expected, near = index._index.search(queries, 30)
    distances, keys = index.search(queries, 30, NONE)
    np.testing.assert_allclose(distances, expected, rtol=1e-5)  # compiled functions round otherwise
    np.testing.assert_array_equal(np.sort(keys[:, :20]), np.sort(near[:, :20]))


@pytest.mark.parametrize("way", WAYS)
def test_images_that_are_equally_near_are_kept_by_their_keys(make: Make, way: str) -> None:
    index = make(way, 0, 120)
    query, lists = descriptors_of(0, 120)[:1], lists_of(index)
    every = lists.nearest(lists.probes(lists.transformed(query), lists.count), IMAGES, NONE)
    assert (every.distances[0, :120] == every.distances[0, 0]).all()
    order = np.lexsort((every.keys[0], every.distances[0]))
    np.testing.assert_array_equal(order, np.arange(IMAGES))
    for count in (1, 60, 119, 130):
        distances, keys = index.search(query, count, NONE)
        np.testing.assert_array_equal(keys[0], every.keys[0, :count])
        np.testing.assert_array_equal(distances[0], every.distances[0, :count])


def test_a_query_that_finds_too_few_probes_all_lists_and_others_do_not(make: Make) -> None:
    index, queries = make("sq8", 1, 1), descriptors_of(1, 1)[:8]
    lists, few = lists_of(index), index.description.nprobe // 2
    index.description = replace(index.description, nprobe=few)
    near = lists.nearest(lists.probes(queries[:1], few), IMAGES, NONE).keys[0]
    without = np.sort(near[near >= 0])[2:]  # two are left
    found = Candidates(*index.search(queries, 10, without))
    every, some = (lists.nearest(lists.probes(queries, probes), 10, without) for probes in (lists.count, few))
    assert (some.keys[:, 2:] < 0).all(1).tolist() == [True] + 7 * [False]
    np.testing.assert_array_equal(found.keys[0], every.keys[0])
    np.testing.assert_array_equal(found.keys[1:], some.keys[1:])


def test_the_bytes_of_lists_are_those_of_their_images(make: Make) -> None:
    assert lists_of(make("sq8", 0, 1)).bytes.sum() == IMAGES * (DIM + 8)
    assert lists_of(make("flat", 0, 1)).bytes.sum() == IMAGES * (4 * DIM + 8)


def test_probes_that_are_not_of_this_index(make: Make) -> None:
    lists = lists_of(make("sq8", 0, 1))
    queries, numbers = np.zeros((1, DIM), np.float32), np.array([[0, 1]])
    centres = np.zeros((1, 2), np.float32)
    for wrong in (
        Probes(queries[:, 1:], numbers, centres),
        Probes(queries, numbers, centres[:, 1:]),
        Probes(queries, numbers + 1000, centres),
    ):
        with pytest.raises(GalleryDamaged, match="the index is damaged: rebuild it with"):
            lists.nearest(wrong, 3, NONE)
