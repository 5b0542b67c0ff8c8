"""The pool of resident maps: a search finds the maps that were read, whatever the slots held before."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spade_index.kernels import MapPool, nearest_pixels
from spade_index.kernels.fused.maps import FusedMaps

SIZES = [(6, 4), (3, 2)]
CHANNELS = [3, 5]


class Shelf:
    """Maps of images 0, 1, 2, .., every one of its own, and the order in which they were read."""

    def __init__(self):
        self.read_keys = []
        self.broken = None  # an image that cannot be read

    def maps(self, key):
        generator = np.random.default_rng(key)
        shapes = [(h * w, c) for (h, w), c in zip(SIZES, CHANNELS, strict=True)]
        return [generator.standard_normal(shape).astype(np.float16) for shape in shapes]

    def read(self, keys, out):
        for place, key in enumerate(keys):
            if key == self.broken:
                raise OSError(f"image {key} is damaged")
            self.read_keys.append(key)
            for level, values in zip(out, self.maps(key), strict=True):
                level[place][:] = values


@pytest.fixture
def shelf():
    return Shelf()


def pool_of(shelf, slots, fused=False):
    one = FusedMaps.slot_bytes(SIZES, CHANNELS, torch.float16) if fused else 2 * (24 * 3 + 6 * 5)
    return MapPool(slots * one + one // 2, SIZES, CHANNELS, shelf.read, fused=fused)


def assert_resident(pool, shelf, wanted):
    """Assert that the pages of a fetch lead to the images' own maps."""
    pages = pool.fetch(wanted)
    assert pages.shape == (len(wanted), len(wanted[0]))
    for query, page in zip(wanted, pages.tolist(), strict=True):
        for key, slot in zip(query, page, strict=True):
            if isinstance(pool.maps, FusedMaps):
                expected = [torch.from_numpy(level).float() for level in shelf.maps(key)]
                expected[0] = expected[0][pool.maps.members]
                for level, norms, features in zip(pool.maps.levels, pool.maps.norms, expected, strict=True):
                    assert torch.equal(level[slot][:, : features.shape[1]].float(), features)
                    assert not level[slot][:, features.shape[1] :].any()
                    torch.testing.assert_close(norms[slot], features.square().sum(1))
            else:
                for level, values in zip(pool.maps, shelf.maps(key), strict=True):
                    np.testing.assert_array_equal(level[slot].numpy(), values)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    slots=st.integers(4, 9),
    fused=st.booleans(),
    fetches=st.lists(
        st.lists(st.lists(st.integers(0, 15), min_size=2, max_size=2), min_size=1, max_size=2), max_size=8
    ),
)
def test_pages_are_the_slots_of_their_images(slots, fused, fetches):
    shelf = Shelf()
    pool = pool_of(shelf, slots, fused)
    assert pool.slots == slots
    wanted = 0
    for queries in fetches:
        assert_resident(pool, shelf, queries)
        wanted += len({key for query in queries for key in query})
    stats = pool.stats
    assert stats.hits + stats.misses == wanted
    assert stats.misses == len(shelf.read_keys)
    assert stats.bytes_moved == stats.misses * 2 * (24 * 3 + 6 * 5)
    assert pool.info()["resident"] == len(set(shelf.read_keys)) - (
        0 if stats.evictions == 0 else len(set(shelf.read_keys)) - slots
    )


@pytest.mark.parametrize("fused", [False, True])
def test_the_least_recently_used_map_is_evicted(shelf, fused):
    pool = pool_of(shelf, 3, fused)
    for wanted in ([[0, 1]], [[2, 0]], [[3, 0]]):  # 1 is out, 0 was used since
        pool.fetch(wanted)
    pool.fetch([[0, 2]])
    assert shelf.read_keys == [0, 1, 2, 3]
    pool.fetch([[1, 0]])
    assert shelf.read_keys == [0, 1, 2, 3, 1]
    assert (pool.stats.hits, pool.stats.misses, pool.stats.evictions) == (5, 5, 2)
    assert pool.stats.hit_rate == 0.5


@pytest.mark.parametrize("fused", [False, True])
def test_queries_of_a_batch_share_maps(shelf, fused):
    pool = pool_of(shelf, 6, fused)
    pages = pool.fetch([[4, 5, 4], [5, 6, 4]])
    assert shelf.read_keys == [4, 5, 6]
    assert pages[0, 0] == pages[0, 2] == pages[1, 2]


def test_more_images_than_a_staging_buffer_holds(shelf):
    pool = pool_of(shelf, 40, fused=True)
    assert_resident(pool, shelf, [list(range(37))])


@pytest.mark.parametrize("fused", [False, True])
def test_a_failed_read_leaves_its_images_out_and_the_others_resident(shelf, fused):
    pool = pool_of(shelf, 4, fused)
    pool.fetch([[0, 1]])
    shelf.broken = 3
    with pytest.raises(OSError, match="image 3 is damaged"):
        pool.fetch([[0, 2, 3]])
    shelf.broken = None
    assert_resident(pool, shelf, [[0, 1, 2, 3]])
    assert pool.info()["resident"] == 4


def test_more_images_than_slots_are_refused(shelf):
    pool = pool_of(shelf, 3)
    with pytest.raises(ValueError, match="4 images do not fit into a pool of 3 slots"):
        pool.fetch([[0, 1], [2, 3]])
    assert_resident(pool, shelf, [[0, 1, 2]])


def test_at_least_is_a_minimum_of_slots_at_any_budget(shelf):
    assert MapPool(10, SIZES, CHANNELS, shelf.read).slots == 1
    assert MapPool(10, SIZES, CHANNELS, shelf.read, at_least=4, at_most=2).slots == 4


@pytest.mark.parametrize("fused", [False, True])
def test_a_pool_made_in_inference_mode_works_outside_it(shelf, fused):
    with torch.inference_mode():
        pool = pool_of(shelf, 3, fused)
        pool.fetch([[0, 1]])
    assert_resident(pool, shelf, [[1, 2, 3]])


def test_at_most_is_a_maximum_of_slots(shelf):
    pool = MapPool(1 << 40, SIZES, CHANNELS, shelf.read, at_most=7)
    assert pool.slots == 7
    assert pool.info()["hit_rate"] is None


def test_searching_a_pool_equals_searching_its_maps(shelf):
    pool = pool_of(shelf, 5)
    query = [torch.from_numpy(level)[None].float() for level in shelf.maps(99)]
    pool.fetch([[7, 8, 9]])
    pages = pool.fetch([[3, 8, 1]])
    found = nearest_pixels(query, pool.maps, pages, 2, sizes=SIZES)
    plain = [
        torch.stack(level)
        for level in zip(*([torch.from_numpy(f) for f in shelf.maps(key)] for key in (3, 8, 1)), strict=True)
    ]
    expected = nearest_pixels(query, plain, torch.arange(3)[None], 2, sizes=SIZES, backend="reference")
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
    assert torch.equal(found[1], expected[1])
