"""What backends of the fused search share: geometry, the maps' own layout, keys, and the search by plain kernels."""

import math
from functools import partial
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spade_index.kernels import nearest_pixels
from spade_index.kernels.fused import search as fused
from spade_index.kernels.fused.geometry import make_geometry, raster_layout
from spade_index.kernels.fused.interface import Launch, split_keys
from spade_index.kernels.fused.maps import FusedMaps, ScaledRows, padded, scale_rows
from spade_index.kernels.pyramid import is_nested, nearest_index

from helpers.kernel_cases import (
    LARGER,
    MODES,
    NESTED,
    OTHER,
    assert_right,
    assert_same,
    pyramid_of,
    random_search,
    searches,
)
from helpers.plain_kernels import PlainKernels, keys_of

CPU = torch.device("cpu")
PYRAMIDS = NESTED + OTHER + LARGER
TYPES = [torch.float16, torch.bfloat16, torch.float32]


def plain_search(query, pool, pages, k=1, *, make=PlainKernels, sizes, weights=None, mode="concat-nearest", **options):
    """The fused search by plain kernels."""
    weights = weights or [1.0] * len(sizes)
    return fused.search(make, query, pool, pages, k, sizes=sizes, weights=weights, mode=mode, **options)


@pytest.mark.parametrize("tile_rows", [8, 16, 128])
@pytest.mark.parametrize("sizes", PYRAMIDS, ids=str)
def test_every_pixel_has_a_row_a_cell_and_a_place(sizes, tile_rows):
    shape = make_geometry(tuple(sizes), tile_rows, CPU)
    pixels = torch.arange(shape.pixels)
    assert len(shape.query_order) == len(shape.row_cells)
    assert len(shape.query_order) % tile_rows == 0
    assert torch.equal(shape.query_order[shape.query_row], pixels)
    assert torch.equal(shape.pixel_cells[shape.query_order], shape.row_cells)
    assert len(shape.members) == len(shape.cell_pixels) == shape.planes * shape.cells
    assert torch.equal(shape.cell_pixels[shape.gallery_row], pixels.int())
    assert torch.equal(shape.cell_pixels[shape.cell_pixels >= 0].sort().values, pixels.int()), "a pixel is there twice"
    there = shape.cell_pixels >= 0
    assert torch.equal(shape.members[there], shape.cell_pixels[there].long())
    assert torch.equal(shape.pixel_cells[shape.members], torch.arange(shape.cells).int().repeat(shape.planes))


@pytest.mark.parametrize("sizes", PYRAMIDS, ids=str)
def test_a_cell_lies_on_one_pixel_of_every_coarse_level(sizes):
    shape = make_geometry(tuple(sizes), 16, CPU)
    assert shape.nested == is_nested(sizes)
    for under, size in zip(shape.level_pixels, sizes, strict=True):
        assert torch.equal(under.long(), nearest_index(size, sizes[0]))
    for level_cells, under in zip(shape.level_cells, shape.level_pixels[1:], strict=True):
        assert torch.equal(level_cells[shape.pixel_cells], under.long())
    if shape.nested:
        assert len(sizes) == 1 or torch.equal(shape.pixel_cells, shape.level_pixels[1]), (
            "cells are not level 1's pixels"
        )
        for parents, under, above in zip(shape.parents, shape.level_pixels[1:], shape.level_pixels[2:], strict=False):
            assert torch.equal(parents[under], above)
        assert len(shape.parents) == max(0, len(sizes) - 2)
    else:
        assert shape.parents == []


@pytest.mark.parametrize("tile_rows", [4, 16, 64])
@pytest.mark.parametrize("sizes", [[(8, 8), (4, 4)], [(8, 12), (2, 3)], [(6, 6), (6, 6)], [(9, 9), (3, 3)], [(7, 5)]])
def test_planes_that_lie_together_are_of_the_same_cells(sizes, tile_rows):
    shape = make_geometry(tuple(sizes), tile_rows, CPU)
    together = {1: 1, 4: 4, 16: 16, 9: 1}[shape.planes]
    together = min(together, tile_rows)
    for rows in shape.query_order.view(-1, tile_rows):
        cells, counts = shape.pixel_cells[rows].unique(return_counts=True)
        assert len(cells) <= tile_rows // together
        assert (counts % together == 0).all()
        assert int(cells.max() - cells.min()) == len(cells) - 1


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("sizes", [[(8, 8), (4, 4)], [(7, 5), (3, 3)], [(7, 5)]], ids=str)
def test_maps_of_a_pool_are_in_the_order_of_members(sizes, dtype):
    channels = [9, 16][: len(sizes)]
    pool = pyramid_of("random", 5, sizes, channels, 1, torch.float32)
    maps, pages = FusedMaps.of(pool, torch.tensor([[4, 1, 4], [2, 4, 2]]), sizes, dtype)
    shape = make_geometry(tuple(sizes), 16, CPU)
    assert pages.tolist() == [[2, 0, 2], [1, 2, 1]]
    assert maps.channels == channels
    rows = [pool[0][[1, 2, 4]][:, shape.members], *(level[[1, 2, 4]] for level in pool[1:])]
    for level, norms, expected, c in zip(maps.levels, maps.norms, rows, channels, strict=True):
        assert level.dtype == dtype
        assert norms.dtype == torch.float32
        assert level.is_contiguous()
        assert level.shape[2] == padded(c, dtype)
        assert torch.equal(level[:, :, :c], expected.to(dtype))
        assert not level[:, :, c:].any()
        torch.testing.assert_close(norms.double(), expected.double().square().sum(2), rtol=1e-6, atol=0)


def test_norms_do_not_overflow_float16():
    maps, _ = FusedMaps.of(
        [torch.full((1, 4, 3), 300.0, dtype=torch.float16)], torch.zeros(1, 1).long(), [(2, 2)], torch.float16
    )
    torch.testing.assert_close(maps.norms[0], torch.full((1, 4), 3 * 300.0**2), rtol=1e-6, atol=0)


def test_writing_slots_leaves_the_others_alone():
    sizes, channels = [(4, 4), (2, 2)], [3, 8]
    maps = FusedMaps.empty(5, sizes, channels, torch.float16, CPU)
    for tensor in (*maps.levels, *maps.norms):
        tensor.fill_(7)
    pool = pyramid_of("random", 2, sizes, channels, 1, torch.float16)
    maps.write(torch.tensor([3, 1]), pool)
    expected, _ = FusedMaps.of(pool, torch.tensor([[0, 1]]), sizes, torch.float16)
    for number, c in enumerate(channels):
        assert torch.equal(maps.levels[number][[3, 1], :, :c], expected.levels[number][:, :, :c])
        assert (maps.levels[number][:, :, c:] == 7).all()
        assert torch.equal(maps.norms[number][[3, 1]], expected.norms[number])
        assert (maps.levels[number][[0, 2, 4]] == 7).all()
        assert (maps.norms[number][[0, 2, 4]] == 7).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("sizes", [[(8, 8), (4, 4)], [(5, 7), (3, 3)]], ids=str)
def test_slot_bytes_are_those_of_a_slot(sizes, dtype):
    maps = FusedMaps.empty(3, sizes, [5, 17], dtype, CPU)
    taken = sum(tensor.untyped_storage().nbytes() for tensor in (*maps.levels, *maps.norms))
    assert taken == 3 * FusedMaps.slot_bytes(sizes, [5, 17], dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("channels", [1, 7, 8, 9, 24, 256])
def test_rows_start_at_multiples_of_sixteen_bytes(channels, dtype):
    columns = padded(channels, dtype)
    assert columns * dtype.itemsize % 16 == 0
    assert 0 <= (columns - channels) * dtype.itemsize < 16


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("exponent", [-100, -60, -24, -14, 0, 5, 15, 16, 17, 60, 126])
def test_rows_are_scaled_by_powers_of_two_so_that_float16_holds_them(exponent, dtype):
    """Features of 11 bits, as float16 has them (bfloat16 has 8): nothing is rounded."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randint(-128, 129, (2, 6, 5), generator=generator) / 128 * 2.0**exponent
    features[1, 2] = 0
    rows = scale_rows(features, 8, dtype)
    assert rows.values.dtype == dtype
    assert rows.values.shape == (2, 6, 8)
    assert rows.factors.dtype == torch.float32
    assert rows.factors.shape == (2, 6)
    assert not rows.values[..., 5:].any()
    mantissas = rows.factors.frexp().mantissa
    assert torch.equal(mantissas, torch.full_like(mantissas, 0.5)), "a factor is no power of two"
    assert torch.equal(rows.values[..., :5].double() * rows.factors.double()[..., None] / 2, features.double())
    largest = rows.values.double().abs().amax(2)
    assert (largest[features.any(2)] >= 2**11).all()
    assert (largest < 2**12).all()


@given(st.lists(st.floats(2.0**-100, 2.0**127, width=32), min_size=1, max_size=9), st.sampled_from(TYPES))
def test_scaled_rows_round_relative_to_the_largest(values, dtype):
    features = torch.tensor(values).view(1, 1, -1)
    rows = scale_rows(features, len(values), dtype)
    found = rows.values.double() * rows.factors.double()[..., None] / 2
    assert found.isfinite().all()
    step = torch.finfo(dtype).eps / 2
    assert ((found - features.double()).abs() <= step * features.double() + 2.0**-36 * features.max().double()).all()


@pytest.mark.parametrize("dtype", TYPES)
def test_features_of_any_type_are_scaled(dtype):
    features = torch.tensor([[[1.5, -0.25]]])
    rows = scale_rows(features.to(dtype), 4, torch.float16)
    assert rows.values.tolist() == [[[3072.0, -512.0, 0.0, 0.0]]]
    assert rows.factors.tolist() == [[2.0**-10]]


FLOATS = st.floats(allow_nan=False, width=32).map(lambda x: x + 0.0)  # keys put -0 before 0


@given(st.lists(st.tuples(FLOATS, st.integers(0, 2**31 - 1)), min_size=1))
def test_keys_order_by_distance_and_then_by_match(pairs):
    distances, matches = (
        torch.tensor(part, dtype=t)
        for part, t in zip(zip(*pairs, strict=True), (torch.float32, torch.int64), strict=True)
    )
    keys = keys_of(distances, matches)
    found = split_keys(keys)
    assert_same(found, (distances, matches))
    ordered = split_keys(keys.sort().values)
    assert list(zip(*(part.tolist() for part in ordered), strict=True)) == sorted(
        zip(distances.tolist(), matches.tolist(), strict=True)
    )


@pytest.mark.parametrize("distance", [-math.inf, -1e30, -1.0, -1e-45, 0.0, 1e-45, 1.0, math.inf])
def test_keys_give_back_what_they_were_made_of(distance):
    distances, matches = torch.tensor([distance] * 3), torch.tensor([0, 1, 2**31 - 1])
    assert_same(split_keys(keys_of(distances, matches)), (distances, matches))


@settings(max_examples=120, deadline=None, derandomize=True)
@given(searches(), st.sampled_from([None, 1, 20_000, 200_000]), st.sampled_from([1, 2, 16]))
def test_the_fused_search_is_the_reference(search, working_memory, block_cells):
    make = partial(PlainKernels, block_cells=block_cells)
    found = plain_search(**search, make=make, working_memory=working_memory)
    expected, _ = nearest_pixels(**search, backend="reference")
    assert_right(search, found, expected, 1e-4, 1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes", PYRAMIDS, ids=str)
def test_separated_features_give_the_very_matches(sizes, mode):
    query, pool = random_search(sizes)
    arguments = {
        "pages": torch.tensor([[2, 0], [1, 2]]),
        "k": 1 if sizes[-1] == (1, 1) else 3,
        "sizes": sizes,
        "mode": mode,
    }
    expected = nearest_pixels(query, pool, **arguments, backend="reference")
    d, matches = plain_search(query, pool, **arguments)
    torch.testing.assert_close(d, expected[0], rtol=1e-5, atol=1e-6)
    assert torch.equal(matches, expected[1])


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
    """What a backend writes for one query and all its neighbours."""
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


@pytest.mark.parametrize("mode", MODES)
def test_no_queries_give_no_answers(mode):
    sizes = [(8, 8), (4, 4)]
    query, pool = random_search(sizes)
    d, matches = plain_search([level[:0] for level in query], pool, torch.zeros(0, 2).long(), 2, sizes=sizes, mode=mode)
    assert d.shape == matches.shape == (0, 64, 2)


def test_views_are_searched_like_copies_and_left_alone():
    sizes = [(8, 8), (4, 4)]
    query, pool = random_search(sizes)
    pages = torch.tensor([[2, 0], [1, 2]])
    expected = plain_search(query, pool, pages, 2, sizes=sizes)
    views = [
        [level.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for level in side]
        for side in (query, pool)
    ]
    found = plain_search(*views, pages.T.contiguous().T.int().long(), 2, sizes=sizes)
    assert_same(found, expected)
    assert not found[0].requires_grad
    for side, copies in zip(views, (query, pool), strict=True):
        assert all(torch.equal(level, copy) for level, copy in zip(side, copies, strict=True))


@pytest.mark.parametrize(("k", "share"), [*product([1, 4], ["all", "some"])])
def test_equal_distances_go_to_the_lowest_match(k, share):
    sizes = [(8, 8), (4, 4)]
    query, pool = random_search(sizes, 1, 3)
    for level in pool:
        level[:] = level[:, :1] if share == "all" else level[:1]
    for pages in ([[0, 0, 0]], [[1, 0, 1]], [[2, 1, 0]]):
        arguments = {"pages": torch.tensor(pages), "k": k, "sizes": sizes}
        expected = nearest_pixels(query, pool, **arguments, backend="reference")
        d, matches = plain_search(query, pool, **arguments)
        torch.testing.assert_close(d, expected[0], rtol=1e-5, atol=1e-6)
        assert torch.equal(matches, expected[1])


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
