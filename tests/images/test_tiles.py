"""Tiles cover a picture, overlap as asked, and keep their places in their ids."""

import io
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from spade_index.errors import InputError
from spade_index.images.decode import load_parts
from spade_index.images.files import ImageFile
from spade_index.images.find import find_images
from spade_index.images.loading import load_all
from spade_index.images.tiles import box_of, own_part, picture_of, tile_boxes, tile_digest, tile_id, tile_size
from spade_index.settings import Preprocessing

from helpers.tiny import write_images

HOW = Preprocessing(input_size=(32, 32), tile=32, overlap=0.25)


@settings(deadline=None)
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
    owned = np.zeros((height, width))
    for left, top, right, bottom in boxes:
        assert (right - left, bottom - top) == (min(width, tile), min(height, tile))
        covered[max(0, int(top)) : int(bottom), max(0, int(left)) : int(right)] += 1
        x, y, x1, y1 = own_part((left, top, right, bottom), width, height, how)
        assert left <= x < x1 <= right
        assert top <= y < y1 <= bottom
        rows, columns = np.arange(height) + 0.25, np.arange(width) + 0.25
        owned += ((y <= rows) & (rows < y1))[:, None] & ((x <= columns) & (columns < x1))
    assert covered.min() >= 1
    assert (owned == 1).all()
    lefts = sorted({box[0] for box in boxes})
    assert all(after - before <= (1 - overlap) * tile + 1 for before, after in pairwise(lefts))
    beyond = round(overlap * tile / 2)
    assert boxes[0][:2] == (0 if width <= tile else -beyond, 0 if height <= tile else -beyond)
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
        mirrored = np.pad(shown, ((16, 16), (16, 16), (0, 0)), mode="symmetric")
        assert np.array_equal(tile.pixels, mirrored[top + 16 : bottom + 16, left + 16 : right + 16])
        assert tile.geometry.to_original(0, 0) == (max(0, left), max(0, top))
    assert len(load_parts(file, replace(HOW, tile=None, overlap=0.0))) == 1


@pytest.mark.parametrize("values", [{"tile": 8}, {"overlap": 0.9}, {"overlap": float("nan")}, {"resize": 64}])
def test_tiles_that_cannot_be_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(InputError):
        replace(HOW, **values)
    with pytest.raises(InputError):
        Preprocessing(overlap=0.5)


@pytest.mark.parametrize("workers", [1, 5])
def test_pictures_are_loaded_in_order_and_those_that_cannot_be_are_left_out(tmp_path: Path, workers: int) -> None:
    folder = write_images(tmp_path / "pictures", 7, size=(150, 90))
    (folder / "003.png").write_bytes(b"no picture")
    files = list(find_images(folder))
    failed: list[str] = []
    found = list(
        load_all(files, HOW, workers=workers, ahead=8, on_error=lambda error: failed.append(str(error).split(":")[0]))
    )
    assert failed == [str(folder / "003.png")]
    expected = [tile for file in files if file.id != "003.png" for tile in load_parts(file, HOW)]
    assert [tile.id for tile in found] == [tile.id for tile in expected]
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
        assert (one.digest, one.contents, one.thumbnail, one.tile) == (
            other.digest,
            other.contents,
            other.thumbnail,
            other.tile,
        )
        assert (one.begins, one.ends) == (one.tile.number == 0, one.tile.number == one.tile.count - 1)


def test_loading_can_be_given_up(tmp_path: Path) -> None:
    threads = threading.active_count()
    loaded = load_all(
        find_images(write_images(tmp_path / "pictures", 9, size=(150, 90))),
        HOW,
        workers=3,
        ahead=8,
        on_error=pytest.fail,
    )
    next(loaded)
    loaded.close()
    assert threading.active_count() <= threads
