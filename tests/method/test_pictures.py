"""Maps of tiles become one map of the picture, without seams."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spade_index.images.geometry import Geometry
from spade_index.images.tiles import tile_boxes
from spade_index.method.pictures import join_maps
from spade_index.settings import Preprocessing

HOW = Preprocessing(input_size=(32, 32), tile=64, overlap=0.25)


def whole(width: int, height: int) -> Geometry:
    return Geometry(width, height, (0.0, 0.0, float(width), float(height)))


@given(width=st.integers(1, 300), height=st.integers(1, 300), overlap=st.floats(0, 0.75), scale=st.floats(0.02, 1.5))
@settings(max_examples=60, deadline=None)
def test_a_constant_stays_constant(width: int, height: int, overlap: float, scale: float) -> None:
    boxes = tile_boxes(width, height, replace(HOW, overlap=overlap))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    joined = join_maps([(box, np.full((8, 8), 3.0, np.float32)) for box in boxes], whole(width, height), size)
    assert joined.shape == size
    np.testing.assert_allclose(joined, 3.0, rtol=1e-5)


def test_a_plane_has_no_seams() -> None:
    """Bilinear interpolation keeps a plane, so every place between the centres of the outermost cells is exact."""
    width, height = 300, 200

    def plane(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return 2 * x + 3 * y

    tiles = []
    for left, top, right, bottom in tile_boxes(width, height, HOW):
        x = left + (np.arange(8) + 0.5) / 8 * (right - left)
        y = top + (np.arange(8) + 0.5) / 8 * (bottom - top)
        tiles.append(((left, top, right, bottom), plane(x[None], y[:, None]).astype(np.float32)))
    joined = join_maps(tiles, whole(width, height), (height, width))
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    # Where two tiles meet, the outer half cell of one is flat but weighs little.
    inner = joined[8:-8, 8:-8] - plane(x[None], y[:, None])[8:-8, 8:-8]
    assert abs(inner).max() < 4
    assert abs(np.diff(joined, axis=1)[8:-8, 8:-8] - 2).max() < 1.5


def test_a_single_tile_is_interpolated_as_a_whole_image_is() -> None:
    import torch
    import torch.nn.functional as F

    values = np.random.default_rng(0).random((8, 8), np.float32)
    joined = join_maps([((0, 0, 64, 64), values)], whole(64, 64), (32, 32))
    wanted = F.interpolate(torch.from_numpy(values)[None, None], size=(32, 32), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(joined, wanted[0, 0].numpy(), rtol=1e-5)


@pytest.mark.parametrize("moved", [0, 3, 7])
def test_a_place_lies_where_it_is_in_the_picture(moved: int) -> None:
    """A peak that moves with the picture moves in the joined map, across the seams, too."""
    width, height = 300, 200
    tiles = []
    centre = np.array([150.0 + moved, 90.0 + moved])
    for left, top, right, bottom in tile_boxes(width, height, HOW):
        x = left + (np.arange(16) + 0.5) / 16 * (right - left)
        y = top + (np.arange(16) + 0.5) / 16 * (bottom - top)
        peak = np.exp(-((x[None] - centre[0]) ** 2 + (y[:, None] - centre[1]) ** 2) / (2 * 10.0**2))
        tiles.append(((left, top, right, bottom), peak.astype(np.float32)))
    joined = join_maps(tiles, whole(width, height), (height, width))
    rows, columns = np.indices(joined.shape)
    found = np.array([(columns * joined).sum(), (rows * joined).sum()]) / joined.sum() + 0.5
    assert abs(found - centre).max() < 0.3
