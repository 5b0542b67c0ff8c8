"""Geometry, the maps' layout, scaled rows and keys of the fused kernels."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spade_index.kernels.fused.geometry import make_geometry
from spade_index.kernels.fused.interface import split_keys
from spade_index.kernels.fused.maps import FusedMaps, padded, scale_rows
from spade_index.kernels.pyramid import is_nested, nearest_index

from helpers.kernel_cases import (
    LARGER,
    NESTED,
    OTHER,
    assert_same,
    pyramid_of,
)
from helpers.plain_kernels import keys_of

CPU = torch.device("cpu")
PYRAMIDS = NESTED + OTHER + LARGER
TYPES = [torch.float16, torch.bfloat16, torch.float32]


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
