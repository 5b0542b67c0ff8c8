"""The fused search by plain kernels: parts of batches and pages, buffers, rounding, maps in the kernels' layout."""

import math

import pytest
import torch

from spade_index.kernels import nearest_pixels
from spade_index.kernels.fused import search as fused
from spade_index.kernels.fused.geometry import make_geometry, raster_layout
from spade_index.kernels.fused.interface import Launch
from spade_index.kernels.fused.maps import FusedMaps, ScaledRows, scale_rows

from helpers.kernel_cases import (
    LARGER,
    MODES,
    NESTED,
    OTHER,
    assert_same,
    pyramid_of,
    random_search,
)
from helpers.plain_kernels import PlainKernels

CPU = torch.device("cpu")
PYRAMIDS = NESTED + OTHER + LARGER
TYPES = [torch.float16, torch.bfloat16, torch.float32]


def plain_search(query, pool, pages, k=1, *, make=PlainKernels, sizes, weights=None, mode="concat-nearest", **options):
    """The fused search by plain kernels."""
    weights = weights or [1.0] * len(sizes)
    return fused.search(make, query, pool, pages, k, sizes=sizes, weights=weights, mode=mode, **options)


class Counted(PlainKernels):
    """Plain kernels that note the pages of each scan."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.pages = []

    def block_minima(self, launch, rows, coarse):
        """See `interface.Kernels`."""
        self.pages.append(tuple(launch.pages.shape))
        return super().block_minima(launch, rows, coarse)


@pytest.mark.parametrize(
    ("per_query", "per_position", "memory", "parts"),
    [
        (1, 1, 1000, [(3, 5)]),
        (1, 1, 12, [(2, 5), (1, 5)]),
        (1, 1, 6, [(1, 5)] * 3),
        (1, 1, 5, [(1, 4), (1, 1)] * 3),
        (1, 1, 3, [(1, 2), (1, 2), (1, 1)] * 3),
        (9, 1, 1, [(1, 1)] * 15),
    ],
)
@pytest.mark.parametrize("sizes", [[(8, 8), (4, 4)], [(5, 7), (3, 3)]], ids=str)
def test_parts_of_batches_and_pages_give_the_same(sizes, per_query, per_position, memory, parts, monkeypatch):
    query, pool = random_search(sizes, batch=3, slots=4)
    search = {"query": query, "pool": pool, "pages": torch.tensor([[2, 0, 3, 2, 1], [1, 1, 1, 0, 3], [3, 2, 2, 0, 0]])}
    search |= {"sizes": sizes, "k": 4}
    expected = nearest_pixels(**search, backend="reference")
    monkeypatch.setattr(fused, "buffer_bytes", lambda *_: (per_query, per_position))
    kernels = Counted(None, None)
    d, matches = plain_search(**search, make=lambda *_: kernels, working_memory=memory)
    assert kernels.pages == parts
    torch.testing.assert_close(d, expected[0], rtol=1e-5, atol=1e-6)
    assert torch.equal(matches, expected[1])


@pytest.mark.parametrize("sizes", [[(16, 16), (8, 8), (4, 4)], [(13, 13), (7, 7), (4, 4)], [(11, 13)]], ids=str)
def test_working_memory_holds_what_the_kernels_write(sizes):
    """The estimate covers all that a backend writes for one query and its neighbours."""
    channels, neighbours, k = [5, 9, 13][: len(sizes)], 7, 3
    written = []

    class Weighed(PlainKernels):
        def coarse_distances(self, *arguments):
            written.append(super().coarse_distances(*arguments))
            return written[-1]

        def block_minima(self, *arguments):
            written.append(super().block_minima(*arguments))
            return written[-1]

        def rescan(self, *arguments):
            written.append(super().rescan(*arguments))
            return written[-1]

    query, pool = (pyramid_of("random", n, sizes, channels, n, torch.float32) for n in (1, neighbours))
    plain_search(query, pool, torch.arange(neighbours)[None], k, make=Weighed, sizes=sizes)
    maps = FusedMaps.empty(1, sizes, channels, torch.float32, CPU)
    kernels = PlainKernels(None, None)
    of_query, of_position = fused.buffer_bytes(kernels, make_geometry(tuple(sizes), kernels.tile_rows, CPU), maps, k)
    taken = sum(tensor.numel() * tensor.element_size() for tensor in written)
    assert taken <= of_query + neighbours * of_position


def test_a_pool_in_the_kernels_own_layout_gives_the_same():
    sizes = [(8, 8), (4, 4)]
    query, pool = random_search(sizes, slots=4)
    pages = torch.tensor([[2, 0, 2], [1, 3, 0]])
    maps = FusedMaps.empty(9, sizes, [level.shape[2] for level in pool], torch.float16, CPU)
    slots = torch.tensor([6, 1, 3, 8])
    for tensor in (*maps.levels, *maps.norms):
        tensor[[0, 2, 4, 5, 7]] = math.nan
    maps.write(slots, pool)
    expected = plain_search(query, pool, pages, 3, sizes=sizes)
    assert_same(plain_search(query, maps, slots[pages], 3, sizes=sizes), expected)


@pytest.mark.parametrize("mode", MODES[1:])
def test_a_pool_in_the_kernels_own_layout_is_for_one_mode_only(mode):
    query, _ = random_search([(4, 4)], 1)
    maps = FusedMaps.empty(1, [(4, 4)], [5], torch.float16, CPU)
    with pytest.raises(ValueError, match=f"for concat-nearest, not {mode}"):
        plain_search(query, maps, torch.zeros(1, 1).long(), sizes=[(4, 4)], mode=mode)


def test_more_blocks_than_k_are_compared_because_queries_are_rounded():
    """Rounded to float16, a query pixel seems nearer to two others than to the nearest one."""
    step = 2.0**-10
    query = [torch.full((1, 9, 8), 1 + 0.4 * step)]  # rounds to 1
    pool = [torch.full((1, 9, 8), 3.0)]
    pool[0][0, 5] = 1 + step
    pool[0][0, [2, 7]] = torch.tensor([1 - step] * 4 + [1.0] * 4)
    search = {"query": query, "pool": [pool[0].half()], "pages": torch.zeros(1, 1).long(), "sizes": [(3, 3)]}

    class Rounded(PlainKernels):
        def __init__(self, dtype, cells):
            super().__init__(dtype, cells, block_cells=1)
            self.dtype = dtype

    d, matches = plain_search(**search, make=Rounded)
    assert (matches == 5).all()
    torch.testing.assert_close(d, torch.full((1, 9, 1), 8 * (0.6 * step) ** 2), rtol=1e-3, atol=0)


def test_more_pixels_than_k_are_measured_because_distances_are_rounded():
    """Norms so large that float32 cannot tell the cells apart: the nearest is one of the last pixels."""
    query, pool = [torch.zeros(1, 8, 1), torch.zeros(1, 2, 2)], [torch.zeros(1, 8, 1), torch.zeros(1, 2, 2)]
    query[1][..., 0] = pool[1][..., 0] = 6000
    pool[1][0, 0, 1] = 0.5
    pool[0][0, [2, 3, 6]] = 0.25
    d, matches = plain_search(query, pool, torch.zeros(1, 1).long(), sizes=[(2, 4), (1, 2)])
    assert (matches == 7).all()
    assert not d.any()


def test_rows_are_what_products_are_made_of():
    """Plain kernels measure what a search means: |g|^2 - 2 q.g."""
    query, pool = random_search([(4, 4)], 1, 2)
    maps, pages = FusedMaps.of(pool, torch.tensor([[1, 0]]), [(4, 4)], torch.float32)
    rows = scale_rows(query[0], maps.levels[0].shape[2], torch.float32)
    assert isinstance(rows, ScaledRows)
    g = pool[0][[1, 0]].double()
    expected = g.square().sum(2).view(1, 1, 2, -1) - 2 * torch.einsum("bqc,kgc->bqkg", query[0].double(), g)
    launch = Launch(make_geometry(((4, 4),), 16, CPU), maps, pages.int(), [1.0])
    found = PlainKernels(None, None).coarse_distances(launch, 0, rows, None)
    members = raster_layout(((4, 4),)).members.flatten()
    torch.testing.assert_close(found.double(), expected[..., members], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("window", [None, 1])
def test_more_matches_than_int32_counts_are_refused(window):
    """The pages are views of one number: nothing is allocated."""
    sizes = [(512, 512)]
    query, pool = [torch.zeros(1, 1, 1).expand(1, 2**18, 1)], [torch.zeros(1, 1, 1).expand(1, 2**18, 1)]
    pages = torch.zeros(1, 1, dtype=torch.int64).expand(1, 2**13)
    with pytest.raises(ValueError, match=r"8192 neighbours of 262144 pixels are 2147483648 matches: .* to 2147483647"):
        plain_search(query, pool, pages, sizes=sizes, window=window)
    fused.check_matches(2**13 - 1, 2**18)
