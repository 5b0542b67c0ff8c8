"""Whole pictures beside their tiles: one more piece of each, resized to the input."""

from dataclasses import replace

import numpy as np
import pytest

from spade_index.errors import InputError
from spade_index.images.decode import load, load_parts
from spade_index.images.geometry import place_of
from spade_index.images.loading import load_all
from spade_index.images.tiles import part_ids, picture_of, piece_of, pieces_of
from spade_index.settings import ExtractionSettings, Preprocessing

from helpers.tiled import SIZES, picture, tiled_settings

HOW = tiled_settings(whole=True).preprocessing
PLAIN = tiled_settings().preprocessing


@pytest.mark.parametrize("size", [*SIZES, (20, 20)])
def test_the_last_piece_is_the_picture(size: tuple[int, int]) -> None:
    pieces = pieces_of(*size, HOW)
    assert pieces[:-1] == pieces_of(*size, PLAIN)
    assert pieces[-1] == ((0, 0, *size), True)
    ids = part_ids("a@whole", *size, HOW)
    assert ids[-1] == "a@whole@whole"
    for id, piece in zip(ids, pieces, strict=True):
        assert picture_of(id) == "a@whole"
        assert piece_of(id, *size, HOW) == piece
        assert place_of(id, *size, HOW).whole == piece.whole
    assert len({piece.digest(b"contents") for piece in pieces}) == len(pieces)  # also where a tile shows all


def test_a_whole_picture_is_loaded_as_it_is_where_pictures_are_not_cut() -> None:
    file = picture("a.png", 0)
    *tiles, whole = load_parts(file, HOW)
    alone = load(file, replace(PLAIN, tile=None, overlap=0.0))
    assert whole.id == "a.png@whole"
    assert whole.ends
    assert not any(tile.ends for tile in tiles)
    np.testing.assert_array_equal(whole.pixels, alone.pixels)
    for tile, other in zip(tiles, load_parts(file, PLAIN), strict=True):
        assert (tile.id, tile.digest, tile.geometry) == (other.id, other.digest, other.geometry)
        np.testing.assert_array_equal(tile.pixels, other.pixels)


@pytest.mark.parametrize("how", [HOW, PLAIN, replace(PLAIN, tile=None, overlap=0.0)])
def test_thumbnails_are_made_where_images_are_kept(how: Preprocessing) -> None:
    files = [picture(f"{number}.png", number) for number in range(3)]

    def loaded(thumbnails: bool) -> list[tuple[str, bool]]:
        found = load_all(files, how, workers=2, ahead=4, on_error=pytest.fail, thumbnails=thumbnails)
        return [(image.id, bool(image.thumbnail)) for image in found]

    ids = [id for number, file in enumerate(files) for id in part_ids(file.id, *SIZES[number], how)]
    assert loaded(thumbnails=True) == [(id, True) for id in ids]
    assert loaded(thumbnails=False) == [(id, False) for id in ids]


def test_galleries_without_it_do_not_state_it() -> None:
    with_it, without = tiled_settings(whole=True), tiled_settings()
    assert "whole" not in without.to_json()
    assert ExtractionSettings.from_json(with_it.to_json()).preprocessing.whole
    assert not ExtractionSettings.from_json(without.to_json()).preprocessing.whole
    with pytest.raises(InputError, match="--tile"):
        replace(HOW, tile=None, overlap=0.0)
