"""The tiles of one picture: they do not stand in for each other, and the picture has one score.

In a gallery whose pictures are not cut into tiles, every image is a picture of its own.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import numpy as np

from spade_index.errors import InputError
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.index.search import ImageSearcher, Neighbour
from spade_index.gallery.reader import Gallery
from spade_index.images.geometry import Geometry, place_of
from spade_index.images.tiles import Box, own_part, picture_of, tile_size
from spade_index.settings import Preprocessing

from .detection import EVERYWHERE

FEW = 64  # images to be left out that are asked for besides the nearest,
MORE = 8  # and about how many times as many each time that was not enough


def siblings(gallery: Gallery, row: ImageRow) -> list[ImageRow]:
    """Return the tiles of the picture that an image of a gallery is a tile of, itself included, in their order."""
    if gallery.settings.preprocessing.tile is None:
        return [row]
    return gallery.catalog.tiles_of(picture_of(row.id), gallery.snapshot) or [row]


def are_siblings(gallery: Gallery, one: str, other: str) -> bool:
    """Return whether images of a gallery, by their ids, are one, or tiles of one picture."""
    tiled = gallery.settings.preprocessing.tile is not None
    return one == other or (tiled and picture_of(one) == picture_of(other))


def pictures_of(gallery: Gallery, rows: Iterable[ImageRow]) -> list[list[ImageRow]]:
    """Return all tiles of every picture that has a tile among these rows, picture by picture, in their order."""
    first = {picture_of(row.id) if gallery.settings.preprocessing.tile else row.id: row for row in rows}
    return [siblings(gallery, row) for row in first.values()]


def picture_numbers(gallery: Gallery, keys: np.ndarray) -> np.ndarray | None:
    """Return the number of the picture of each image with these keys, int64 [n]; None where nothing is cut into tiles.

    Numbers are 0 to the number of pictures less 1.
    """
    if gallery.settings.preprocessing.tile is None:
        return None
    ids = gallery.catalog.ids(keys.tolist())
    pictures = [picture_of(ids.get(int(key), str(key))) for key in keys]
    numbers: np.ndarray = np.unique(pictures, return_inverse=True)[1].reshape(-1)
    return numbers


def whole_flags(gallery: Gallery, keys: np.ndarray) -> np.ndarray | None:
    """Return which images with these keys are whole pictures beside their tiles, bool [n]; None at one scale."""
    if not gallery.settings.preprocessing.whole:
        return None
    rows, how = gallery.catalog.images_by_key(keys.tolist()), gallery.settings.preprocessing
    places = {key: place_of(row.id, row.width, row.height, how) for key, row in rows.items()}
    return np.array([key in places and places[key].whole for key in keys.tolist()], bool)


def place_of_row(gallery: Gallery, row: ImageRow) -> Geometry:
    """Return what the backbone saw of the original of an image of the gallery."""
    place = place_of(row.id, row.width, row.height, gallery.settings.preprocessing)
    region = gallery.own_region(row.key)
    return place if region is None else replace(place, region=region)


def is_whole(place: Geometry | None) -> bool:
    """Return whether a place is that of a whole picture beside its tiles."""
    return place is not None and place.whole


def own_slices(place: Geometry | None, size: Sequence[int], how: Preprocessing) -> tuple[slice, slice]:
    """Return the part of a score map that counts: of a tile, what no other tile of the picture sees better.

    Args:
        place: of the image in its picture; None: it is the picture.
        size: (H, W) of the score map.
        how: the gallery's preprocessing.
    """
    if place is None or place.whole or how.tile is None:
        return EVERYWHERE
    left, top, right, bottom = place.box
    low_x, low_y, high_x, high_y = own_part(place.box, place.width, place.height, how)
    across, down = size[1] / (right - left), size[0] / (bottom - top)
    rows = slice(math.floor((low_y - top) * down + 1e-6), math.ceil((high_y - top) * down - 1e-6))
    return rows, slice(math.floor((low_x - left) * across + 1e-6), math.ceil((high_x - left) * across - 1e-6))


def nearest_besides(
    images: ImageSearcher, pooled: np.ndarray, count: int, without: Collection[int]
) -> list[list[Neighbour]]:
    """Return the `count` nearest images of each descriptor float32 [B, D], besides those with the keys `without`.

    Of the many images that may be left out, few are usually near: more are asked for only where that was not enough.
    """
    found: list[list[Neighbour]] = [[] for _ in pooled]
    short, spare = list(range(len(pooled))), min(len(without), FEW)
    while short:
        for query, of in zip(short, images.nearest(pooled[short], count + spare), strict=True):
            found[query] = others(of, without, None)
        short = [query for query in short if len(found[query]) < count] if spare < len(without) else []
        spare = min(len(without), MORE * (spare + 1))
    return [of[:count] for of in found]


def others(neighbours: list[Neighbour], without: Collection[int], beyond: float | None) -> list[Neighbour]:
    """Return neighbours other than some images and, unless none would remain, those up to a squared distance."""
    found = [neighbour for neighbour in neighbours if neighbour.key not in without]
    return found if beyond is None else [n for n in found if n.distance > beyond] or found


class Places:
    """Where the tiles of a gallery lie in their pictures: which of them are at the same place."""

    def __init__(self, gallery: Gallery, images: ImageSearcher) -> None:
        """Read the places of all images, the nearest of which `images` finds. Raises InputError without tiles."""
        how = gallery.settings.preprocessing
        if how.tile is None:
            raise InputError(f"{gallery.path}: its images are not tiles, so none is at the same place as another")
        width, height = tile_size(how)
        self._images = images
        self._reach = np.array([width / 2, height / 2])
        keys, corners = [], []
        for row in gallery.images():
            place = place_of(row.id, row.width, row.height, how)
            if not place.whole:
                keys.append(row.key)
                corners.append(place.box[:2])
        self._keys = np.array(keys, np.int64)
        self._corners = np.array(corners, np.float64).reshape(-1, 2)  # left, top

    def same(self, box: Box, without: Collection[int] = ()) -> np.ndarray:
        """Return the keys int64 [n] of tiles that lie less than half a tile from a box, across and down."""
        near = (abs(self._corners - box[:2]) < self._reach).all(1)
        found = self._keys[near]
        return found[~np.isin(found, list(without))]

    def nearest(
        self, pooled: np.ndarray, count: int, without: Collection[int], places: Sequence[Geometry] | None
    ) -> list[list[Neighbour]]:
        """Return the nearest tiles that lie at the same places as the queries; if there is none, all tiles compete.

        Arguments as for `Detector.nearest_images`; of tiles at the same place, those `without` are left out. Raises
        ValueError if the queries' places are not given.
        """
        if places is None:
            raise ValueError("the search for tiles at the same place needs the places of the queries")
        found = []
        for query, place in zip(pooled, places, strict=True):
            there = self.same(place.box, without)
            query = query[None]
            found += (
                self._images.nearest_of(query, there, count)
                if len(there)
                else nearest_besides(self._images, query, count, without)
            )
        return found
