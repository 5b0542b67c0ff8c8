"""The geometry of a pyramid, against its definition pixel by pixel."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spade_index.kernels import pyramid
from spade_index.kernels.pyramid import TILE, bilinear_taps, make_layout, nearest_index, upsample_bilinear

from helpers.kernel_cases import LARGER, NESTED, OTHER


@st.composite
def pyramids(draw):
    """Sizes of levels, the first the finest; some divide each other, most do not."""
    if draw(st.booleans()):
        h, w = draw(st.integers(1, 3)), draw(st.integers(1, 3))
        sizes = [(h, w)]
        for _ in range(draw(st.integers(0, 3))):
            h, w = h * draw(st.integers(1, 3)), w * draw(st.integers(1, 3))
            sizes.insert(0, (h, w))
        return sizes
    h, w = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    coarse = draw(st.lists(st.tuples(st.integers(1, h), st.integers(1, w)), max_size=4))
    return [(h, w), *sorted(coarse, reverse=True)]


def cells_of_pixels(layout, pixels):
    """Return the cell of each pixel, int64 [pixels]; each must be in exactly one."""
    cell = torch.arange(layout.cells).expand(layout.planes, -1)
    pairs = torch.stack([layout.members.flatten(), cell.flatten()], 1).unique(dim=0)  # a cell may have a pixel twice
    assert torch.equal(pairs[:, 0], torch.arange(pixels))
    return pairs[:, 1]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(pyramids(), st.booleans())
@example([(56, 56), (28, 28), (14, 14)], False)
@example([(57, 57), (29, 29), (15, 15)], False)
@example([(8, 12), (4, 6), (4, 3), (2, 1), (1, 1)], False)
def test_every_pixel_is_in_one_cell_over_one_pixel_of_each_coarse_level(sizes, bilinear):
    layout, pixels = make_layout(sizes, bilinear), sizes[0][0] * sizes[0][1]
    cell = cells_of_pixels(layout, pixels)
    coarse = [] if bilinear else sizes[1:]
    assert len(layout.rows) == len(layout.places) == len(coarse)
    if not coarse:
        assert torch.equal(cell, torch.arange(pixels))
    for size, rows, places in zip(coarse, layout.rows, layout.places, strict=True):
        assert torch.equal(rows.sort().values, torch.arange(size[0] * size[1]))
        assert torch.equal(rows[places][cell], nearest_index(size, sizes[0]))
        if layout.periodic:
            assert torch.equal(places, torch.arange(layout.cells) % len(rows))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(pyramids(), st.booleans())
@example([(56, 56), (28, 28), (14, 14)], False)
@example([(57, 57), (29, 29), (15, 15)], False)
def test_tiles_are_rectangles_that_share_out_the_cells(sizes, bilinear):
    layout = make_layout(sizes, bilinear)
    assert torch.equal(torch.cat(layout.tiles).sort().values, torch.arange(layout.cells))
    for tile in layout.tiles:
        pixels = layout.members[:, tile].unique()
        y, x = pixels // sizes[0][1], pixels % sizes[0][1]
        assert len(pixels) == (y.max() - y.min() + 1) * (x.max() - x.min() + 1)
        assert len(tile) * layout.planes <= 4 * max(TILE, layout.planes)


@pytest.mark.parametrize(("sizes", "periodic"), [(s, True) for s in NESTED] + [(s, False) for s in OTHER[2:4]], ids=str)
def test_levels_that_divide_each_other_are_periodic(sizes, periodic):
    layout = make_layout(sizes)
    assert layout.periodic == periodic
    assert not make_layout(sizes, bilinear=True).periodic
    if periodic:
        assert layout.cells == sizes[1][0] * sizes[1][1]
        assert layout.members.numel() == sizes[0][0] * sizes[0][1]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_interpolation_of_some_pixels_is_that_of_all(data):
    finest = data.draw(st.tuples(st.integers(1, 30), st.integers(1, 30)))
    size = data.draw(st.tuples(st.integers(1, finest[0]), st.integers(1, finest[1])))
    features = torch.randn(size[0] * size[1], 3, generator=torch.Generator().manual_seed(finest[0]))
    places, weights = bilinear_taps(size, finest)
    assert places.dtype == torch.int64
    assert places.shape == weights.shape == (4, finest[0] * finest[1])
    torch.testing.assert_close(weights.sum(0), torch.ones(weights.shape[1]))
    found = (features[places] * weights[:, :, None]).sum(0)
    torch.testing.assert_close(found, upsample_bilinear(features, size, finest), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", NESTED + OTHER + LARGER, ids=str)
def test_a_pixel_lies_over_the_floor_of_its_share(sizes):
    h, w = sizes[0]
    for size in sizes:
        expected = [(y * size[0] // h) * size[1] + x * size[1] // w for y in range(h) for x in range(w)]
        assert nearest_index(size, sizes[0]).tolist() == expected


def test_square_sizes():
    levels = [torch.zeros(2, 49, 1), torch.zeros(2, 9, 4)]
    assert pyramid.square_sizes(levels) == [(7, 7), (3, 3)]
    with pytest.raises(ValueError, match="level 1 has 8 pixels"):
        pyramid.square_sizes([levels[0], torch.zeros(2, 8, 4)])
