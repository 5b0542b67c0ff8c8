"""Tiles cover a picture, overlap as asked, and keep their places in their ids."""

import io
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spade_index.errors import InputError
from spade_index.images.decode import load_parts
from spade_index.images.files import ImageFile
from spade_index.images.tiles import box_of, picture_of, tile_boxes, tile_digest, tile_id, tile_size
from spade_index.settings import Preprocessing

HOW = Preprocessing(input_size=(32, 32), tile=32, overlap=0.25)


@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    tile=st.integers(16, 120),
    overlap=st.floats(0, 0.75),
)
def test_every_pixel_is_in_a_tile_and_neighbours_overlap(width: int, height: int, tile: int, overlap: float) -> None:
    how = replace(HOW, tile=tile, overlap=overlap)
    boxes = tile_boxes(width, height, how)
    covered = np.zeros((height, width), int)
    for left, top, right, bottom in boxes:
        assert (right - left, bottom - top) == (min(width, tile), min(height, tile))
        covered[int(top) : int(bottom), int(left) : int(right)] += 1
    assert covered.min() >= 1
    lefts = sorted({box[0] for box in boxes})
    assert all(after - before <= (1 - overlap) * tile + 1 for before, after in pairwise(lefts))
    assert boxes[0][:2] == (0, 0)
    assert len(set(boxes)) == len(boxes)


def test_a_tile_has_the_shape_of_the_input() -> None:
    assert tile_size(replace(HOW, input_size=(32, 64), tile=512)) == (512, 256)


def test_the_id_of_a_tile_says_where_it_is() -> None:
    for box in tile_boxes(100, 80, HOW):
        id = tile_id("line 3/board@2,5.png", box)
        assert picture_of(id) == "line 3/board@2,5.png"
        assert box_of(id, 100, 80, HOW) == box
    assert box_of("x@9,9", 100, 80, replace(HOW, tile=None, overlap=0.0)) == (0, 0, 100, 80)


def test_tiles_of_one_file_have_digests_of_their_own() -> None:
    boxes = tile_boxes(100, 80, HOW)
    assert len({tile_digest(b"file", box) for box in boxes}) == len(boxes)


def test_tiles_show_their_parts_of_the_picture() -> None:
    shown = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(shown).save(buffer, "PNG")
    file = ImageFile("p.png", "p.png", 0, 0, buffer.getvalue)
    tiles = load_parts(file, HOW)
    assert [tile.tile.number for tile in tiles if tile.tile] == list(range(len(tiles)))
    for tile in tiles:
        assert tile.tile is not None
        left, top, right, bottom = (int(edge) for edge in tile.tile.box)
        assert np.array_equal(tile.pixels, shown[top:bottom, left:right])
        assert tile.geometry.to_original(0, 0) == (left, top)
    assert len(load_parts(file, replace(HOW, tile=None, overlap=0.0))) == 1


@pytest.mark.parametrize("values", [{"tile": 8}, {"overlap": 0.9}, {"overlap": float("nan")}, {"resize": 64}])
def test_tiles_that_cannot_be_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(InputError):
        replace(HOW, **values)
    with pytest.raises(InputError):
        Preprocessing(overlap=0.5)
