"""Two scales: whole pictures beside their tiles, each compared with its own kind, and scored in one unit.

A scale's unit is what a normal picture rarely exceeds there, so that both give false alarms alike. Scores of whole
pictures are multiplied by the ratio of the units; after that the higher one counts, of scores and in the score map.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from spade_index.errors import InputError
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.index.search import ImageSearcher, Neighbour
from spade_index.gallery.reader import Gallery
from spade_index.images.geometry import Geometry
from spade_index.settings import SearchSettings

from .detection import PixelDetection
from .near_duplicates import PAIRS, near_of
from .scores import PEAK
from .siblings import Places, nearest_besides, others

RARE = 0.9  # share of normal pictures that do not exceed a scale's unit


@dataclass(frozen=True)
class Units:
    """What scores are multiplied by, so that those of tiles and of whole pictures can be compared."""

    weight: float = SearchSettings.whole_weight
    ratios: Mapping[str, float] | None = None  # of the units, by kind of score; None: not known, so 1

    def of(self, kind: str, whole: bool) -> float:
        """Return the factor of a kind of score; 0 where a scale does not count."""
        if not whole:
            return min(1.0, 2 - 2 * self.weight)
        return min(1.0, 2 * self.weight) * (1.0 if self.ratios is None else self.ratios[kind])

    def counts(self, whole: bool) -> bool:
        """Return whether a scale counts."""
        return self.weight > 0 if whole else self.weight < 1

    def scaled(self, pixels: PixelDetection, whole: bool) -> PixelDetection:
        """Return the pixel level of a piece in the common unit; distances of matches stay as they are."""
        factor = np.float32(self.of(PEAK, whole))
        if factor == 1:
            return pixels
        score = pixels.score * self.of("map", whole)
        return replace(pixels, score_map=pixels.score_map * factor, means=pixels.means * factor, score=score)


def units_of(scores: Mapping[str, np.ndarray], pictures: np.ndarray, whole: np.ndarray, weight: float) -> Units:
    """Return the units of what normal pictures score.

    Args:
        scores: of n pieces, float64 [n] by kind.
        pictures: int64 [n], the number of the picture of each.
        whole: bool [n], whether it is a whole picture.
        weight: of whole pictures.
    """
    if not whole.any() or whole.all():
        return Units(weight)
    return Units(weight, {kind: _ratio(of, pictures, whole) for kind, of in scores.items()})


def _ratio(scores: np.ndarray, pictures: np.ndarray, whole: np.ndarray) -> float:
    """Return the ratio of the units of tiles and of whole pictures; 1 where there is none."""
    tiles, wholes = (float(np.quantile(highest(scores[of], pictures[of]), RARE)) for of in (~whole, whole))
    return tiles / wholes if tiles > 0 and wholes > 0 else 1.0


def highest(scores: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """Return the highest score of each picture, in the order of their numbers."""
    numbers, place = np.unique(pictures, return_inverse=True)
    found = np.full(len(numbers), -np.inf)
    np.maximum.at(found, place.reshape(-1), scores)
    return found


class Scales:
    """The whole pictures of a gallery beside its tiles."""

    def __init__(self, gallery: Gallery, images: ImageSearcher | None = None) -> None:
        """Read which rows are whole pictures; `images` finds the nearest, or the gallery."""
        self._gallery, self._images = gallery, gallery if images is None else images
        self._keys = np.array(gallery.catalog.whole_keys(gallery.snapshot), np.int64)
        self.keys = frozenset(self._keys.tolist())

    def tiles(self, rows: Sequence[ImageRow]) -> list[ImageRow]:
        """Return those rows that are tiles."""
        return [row for row in rows if row.key not in self.keys]

    def are_alike(self, one: int, other: int) -> bool:
        """Return whether images, by their keys, are of one scale."""
        return (one in self.keys) == (other in self.keys)

    @cached_property
    def near(self) -> float:
        """The squared distance below which two whole pictures are near-duplicates."""
        return near_of(self._gallery.pooled(self.sample(PAIRS))) if self.keys else 0.0

    def sample(self, count: int) -> list[ImageRow]:
        """Return up to `count` whole pictures, evenly spread."""
        places = np.linspace(0, len(self._keys) - 1, min(count, len(self._keys))).astype(np.int64)
        rows = self._gallery.catalog.images_by_key(self._keys[places].tolist())
        return [rows[key] for key in sorted(rows)]

    def nearest(
        self,
        pooled: np.ndarray,
        count: int,
        without: Collection[int],
        places: Sequence[Geometry] | None,
        at_place: Places | None,
    ) -> list[list[Neighbour]]:
        """Return the nearest images of each query among those of its scale; if there is none, all compete.

        Arguments as for `Places.nearest`, and the tiles' places where only those at the same place are searched.
        """
        if places is None:
            raise ValueError("the search at two scales needs the places of the queries")
        tiles = self.keys.union(without) if without else self.keys
        found: list[list[Neighbour]] = [[] for _ in places]
        for whole in {place.whole for place in places}:
            some = [query for query, place in enumerate(places) if place.whole == whole]
            if whole:
                near = self._nearest_wholes(pooled[some], count, without)
            elif at_place is None:
                near = nearest_besides(self._images, pooled[some], count, tiles)
            else:
                near = at_place.nearest(pooled[some], count, tiles, [places[query] for query in some])
            for query, of in zip(some, near, strict=True):
                found[query] = others(of, without if whole else tiles, None)
        for query, of in enumerate(found):
            if not of:
                (found[query],) = nearest_besides(self._images, pooled[query : query + 1], count, without)
        return found

    def _nearest_wholes(self, pooled: np.ndarray, count: int, without: Collection[int]) -> list[list[Neighbour]]:
        """Return the nearest whole pictures of each query, besides those with the keys `without`."""
        keys = self._keys[~np.isin(self._keys, list(without))] if without else self._keys
        return self._images.nearest_of(pooled, keys, count) if len(keys) else [[] for _ in pooled]


def scales_of(
    gallery: Gallery, search: SearchSettings | None = None, images: ImageSearcher | None = None
) -> Scales | None:
    """Return a gallery's two scales, whose nearest images `images` finds, or the gallery; None where it has one scale.

    Raises InputError for a weight of what it has not.
    """
    if gallery.settings.preprocessing.whole:
        return Scales(gallery, images)
    if search is not None and search.whole_weight != SearchSettings.whole_weight:
        raise InputError(f"{gallery.path}: it was built without --whole, so whole pictures have no weight")
    return None
