"""Lists of 8 bits are scanned by compiled functions to what FAISS finds, and of equals the lowest keys."""

import faiss
import numpy as np
import pytest

from spade_index.gallery.index.byte_lists import byte_lists
from spade_index.kernels.native.library import instruction_sets
from spade_index.kernels.native.lists import LIST
from spade_index.kernels.native.lists import ByteLists as Native

NONE = np.empty(0, np.int64)
DIMENSIONS = [1, 7, 16, 33, 192]


def index_of(dim, images=3000, nlist=12, copies=1, kind=faiss.ScalarQuantizer.QT_8bit):
    """Return inverted lists of random descriptors, each there `copies` times, and queries float32 [5, d]."""
    random = np.random.default_rng(dim)
    values = np.repeat(random.normal(size=(images // copies, dim)).astype(np.float32), copies, 0)
    index = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatL2(dim), dim, nlist, kind)
    index.train(values)
    index.add_with_ids(values, random.permutation(len(values)) + 10)
    return index, random.normal(size=(5, dim)).astype(np.float32)


def scanner_of(index):
    """Return what scans the lists, and the lists that are nearest to each query, [B, n]."""
    return byte_lists(index, index.invlists)


def nearest(index, query, lists, count, without=NONE):
    """Return what is nearest to one query in some lists, without places that are empty."""
    scanner = scanner_of(index)
    scanner.place(lists)
    (distances,), (keys,) = scanner.nearest(query[None], lists[None], count, without)
    assert (distances[keys < 0] == np.inf).all()
    return distances[keys >= 0], keys[keys >= 0]


def by_faiss(index, query, probes, count, without=NONE):
    """Return the distances and keys that FAISS finds in the nearest lists."""
    selected = {"sel": faiss.IDSelectorNot(faiss.IDSelectorBatch(without))} if len(without) else {}
    how = faiss.SearchParametersIVF(**{"nprobe": len(probes), **selected})
    distances, keys = index.search(query[None], count, params=how)
    return distances[0], keys[0]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dim", DIMENSIONS)
def test_it_finds_what_faiss_finds(dim, threads, monkeypatch):
    monkeypatch.setattr(faiss, "omp_get_max_threads", lambda: threads)
    monkeypatch.setattr("spade_index.kernels.native.lists.LEAST_CODES", 100)
    index, queries = index_of(dim)
    for query, probes in zip(queries, index.quantizer.search(queries, 5)[1], strict=True):
        for without in (NONE, np.arange(10, 3000, 3)):
            distances, keys = nearest(index, query, probes, 40, without)
            expected, same = by_faiss(index, query, probes, 40, without)
            np.testing.assert_allclose(distances, expected, rtol=1e-5, atol=1e-6)
            assert (np.diff(distances) >= 0).all()
            assert not np.isin(keys, without).any()
            apart = np.diff(expected, append=np.inf) > 1e-4 * (1 + expected)
            clear = apart & np.roll(apart, 1)
            np.testing.assert_array_equal(keys[clear], same[clear])


@pytest.mark.parametrize("count", [1, 4, 6, 29])
def test_of_equal_distances_the_lowest_keys_are_kept(count):
    index, queries = index_of(8, images=300, nlist=3, copies=5)
    for query in queries:
        everything = nearest(index, query, np.arange(3), 300)
        order = np.lexsort((everything[1], everything[0]))
        np.testing.assert_array_equal(order, np.arange(300))
        for found, all_of in zip(nearest(index, query, np.arange(3), count), everything, strict=True):
            np.testing.assert_array_equal(found, all_of[:count])


def test_there_may_be_fewer_than_are_wanted():
    index, queries = index_of(16, images=300)
    probes = index.quantizer.search(queries[:1], 1)[1][0]
    distances, keys = nearest(index, queries[0], probes, 1000)
    assert len(distances) == len(keys) == index.invlists.list_size(int(probes[0]))
    assert len(nearest(index, queries[0], np.array([-1, -1]), 10)[0]) == 0


@pytest.mark.parametrize("dim", DIMENSIONS)
def test_every_instruction_set_gives_the_same_bits(dim):
    random = np.random.default_rng(0)
    codes, keys = random.integers(0, 256, (999, dim), np.uint8), random.permutation(999)
    centre, query, lowest, step = random.normal(size=(4, dim)).astype(np.float32)
    lists = np.array([(codes.ctypes.data, keys.ctypes.data, 999, centre.ctypes.data)], LIST)
    found = [
        [of[0] for of in Native(lowest, abs(step), name).nearest(query[None], [lists], 50, NONE, 1)]
        for name in instruction_sets()
    ]
    for distances, near in found:
        np.testing.assert_array_equal(distances, found[0][0])
        np.testing.assert_array_equal(near, found[0][1])
    wide = (query.astype(float) - centre - (lowest + abs(step).astype(float) * codes)) ** 2
    order = wide.sum(1).argsort()[:50]
    np.testing.assert_allclose(found[0][0], wide.sum(1)[order], rtol=1e-4)


@pytest.mark.parametrize("kind", [faiss.ScalarQuantizer.QT_fp16, faiss.ScalarQuantizer.QT_8bit_uniform])
def test_other_codes_are_left_to_faiss(kind):
    index, _ = index_of(16, kind=kind)
    assert scanner_of(index) is None


def test_queries_together_find_what_each_finds_alone(monkeypatch):
    index, queries = index_of(33)
    lists = index.quantizer.search(queries, 4)[1]
    lists[1, 2:] = -1
    for threads in (1, 2, 9):
        monkeypatch.setattr(faiss, "omp_get_max_threads", lambda threads=threads: threads)
        scanner = scanner_of(index)
        scanner.place(lists)
        distances, keys = scanner.nearest(queries, lists, 30, NONE)
        for place, query in enumerate(queries):
            alone = nearest(index, query, lists[place], 30)
            np.testing.assert_array_equal(distances[place], alone[0])
            np.testing.assert_array_equal(keys[place], alone[1])


@pytest.mark.parametrize("of", ["lowest", "centre"])
def test_what_has_no_distance_is_not_near(of):
    """The lists of a damaged index."""
    random = np.random.default_rng(0)
    codes, keys = random.integers(0, 256, (2, 50, 8), np.uint8), np.arange(100)
    centres, lowest, step = np.zeros((2, 8), np.float32), np.zeros(8, np.float32), np.ones(8, np.float32)
    (centres[0] if of == "centre" else lowest)[3] = np.nan
    rows = [(codes[n].ctypes.data, keys[50 * n :].ctypes.data, 50, centres[n].ctypes.data) for n in range(2)]
    for name in instruction_sets():
        (found,) = Native(lowest, step, name).nearest(np.zeros((1, 8)), [np.array(rows, LIST)], 60, NONE, 1)[1]
        assert (found >= 0).sum() == (50 if of == "centre" else 0)
        assert not np.isin(found, keys[:50]).any()
