"""Evidence is a match in the pixels of the two original images."""

from dataclasses import replace

from spade_index.gallery.index.search import Neighbour
from spade_index.images import covered
from spade_index.images.geometry import Geometry
from spade_index.method.detection import Match
from spade_index.method.evidence import Evidence, locate
from spade_index.settings import Preprocessing

MATCH = Match(0.5, 0.25, Neighbour("normal.png", 7, 2.0), 0.999, 0.0, 1.5)


def test_places_are_pixels_of_the_originals() -> None:
    how = Preprocessing(input_size=(32, 32))
    found = locate(MATCH, covered(400, 200, how), (64, 48), how)
    assert found == Evidence(pixel=(200, 50), neighbour="normal.png", neighbour_pixel=(63, 0), distance=1.5)


def test_a_centre_crop_is_taken_into_account() -> None:
    how = Preprocessing(input_size=(64, 64), resize=80)  # sees 80 of 100 pixels, in the middle
    found = locate(MATCH, covered(200, 100, how), (100, 100), how)
    assert found.pixel == (100, 30)
    assert found.neighbour_pixel == (89, 10)


def test_the_matched_pixel_of_a_tile_is_in_its_picture() -> None:
    how = Preprocessing(input_size=(32, 32), tile=100)
    of_tile = replace(MATCH, neighbour=Neighbour("board.png@300,500", 7, 2.0))
    found = locate(of_tile, Geometry(800, 900, (200, 100, 300, 200)), (800, 900), how)
    assert (found.pixel, found.neighbour_pixel) == ((250, 125), (399, 500))
