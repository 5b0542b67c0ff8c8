"""Weigh whole pictures against their tiles, by synthetic defects in pictures of a gallery of two scales.

Of each picture two copies are made: one with a defect of the size of a tile, one of that of the picture. A copy is
scored as a query is, without the picture that it was made of: the pieces that the defect changes are searched for, the
others score what they do in the picture. Pictures of many tiles are judged by some of them, the same in both.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from spade_index.features.backbone import Backbone
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.index.search import Neighbour
from spade_index.gallery.reader import Gallery
from spade_index.images.decode import DecodedImage, cut
from spade_index.images.files import ImageFile
from spade_index.images.geometry import Geometry
from spade_index.images.interest import RegionOfInterest
from spade_index.images.loading import in_lots
from spade_index.images.tiles import Box, crop, picture_of, pieces_of
from spade_index.settings import BATCH_SIZE, SearchSettings

from .alone import near_distance, nearest_others
from .as_new import maps_as_new
from .by_neighbours import plain_search
from .defects import paste
from .detection import PixelDetection
from .detector import Detector
from .interest import cells_inside
from .originals import originals
from .quiet_clock import QuietClock
from .scales import Scales, units_of
from .scores import PEAK, image_scores
from .siblings import place_of_row, siblings
from .synthetic import EDGE, LEAST
from .trials import compared, deviation

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
PICTURES = 20  # that are changed, at most
TILES = 16  # of a picture, beside those that a defect changes, and of these

UNNAMED = ImageFile("", "", 0, 0, bytes)

Scores = dict[str, float]


@dataclass(frozen=True)
class Weighed:
    """How well pictures with a defect were told from others at one weight of whole pictures."""

    weight: float
    image_roc_auc: float
    wins: np.ndarray  # float64 [n, n]: of the copies of picture o over picture i

    def row(self, chosen: bool) -> dict[str, Any]:
        """Return it in values for JSON, beside the trials of ways."""
        search = {"whole_weight": self.weight}
        return {"search": search, "image_roc_auc": self.image_roc_auc, "chosen": chosen}


class Pieces(NamedTuple):
    """What pieces of a picture score, the same pieces in the picture and in each copy."""

    whole: np.ndarray  # bool [p]
    plain: list[Scores]  # of p pieces
    copies: list[list[Scores]]


def weigh(
    gallery: Gallery, backbone: Backbone, scales: Scales, search: SearchSettings, seconds: float, **options: Any
) -> tuple[list[Weighed], float]:
    """Try weights of whole pictures; return what was tried, and the weight to take.

    The usual weight is kept unless another is better by more than the standard error, or fewer than 10 pictures can be
    read; then nothing is tried.

    Args:
        gallery: of two scales.
        backbone: the gallery's.
        scales: the gallery's.
        search: the way of comparing.
        seconds: that it may take; not before 10 pictures are done.
        options: device, kernel, map_memory and elsewhere, as for `Detector`.
    """
    detector = Detector(gallery, backbone, plain_search(search), calibrated=False, **options)
    scoring, clock, found = _Scoring(detector, backbone, scales), QuietClock(), list[Pieces]()
    for row, image, other in _pictures(gallery, scales):
        if clock.seconds() > seconds and len(found) >= LEAST:
            break
        if (pieces := scoring.picture(row, image, other)) is not None:
            found.append(pieces)
    return choose_weight(found, search.image_score_for("always"))


def choose_weight(found: Sequence[Pieces], kind: str) -> tuple[list[Weighed], float]:
    """Try weights on the scores of this kind of pieces of pictures; return what `weigh` does."""
    if len(found) < LEAST:
        return [], SearchSettings.whole_weight
    tried = [_weighed(found, kind, weight) for weight in WEIGHTS]
    usual = next(one for one in tried if one.weight == SearchSettings.whole_weight)
    best = max(tried, key=lambda one: one.image_roc_auc)
    owner = np.repeat(np.arange(len(found)), [len(pieces.copies) for pieces in found])
    better = best.image_roc_auc - usual.image_roc_auc > deviation(best.wins - usual.wins, owner)
    return tried, best.weight if better else usual.weight


def _weighed(found: Sequence[Pieces], kind: str, weight: float) -> Weighed:
    whole = np.concatenate([pieces.whole for pieces in found])
    pictures = np.repeat(np.arange(len(found)), [len(pieces.whole) for pieces in found])
    plain = [scores for pieces in found for scores in pieces.plain]
    by_kind = {name: np.array([scores[name] for scores in plain]) for name in plain[0]}
    units = units_of(by_kind, pictures, whole, weight)

    def score(of: list[Scores], whole: np.ndarray) -> float:
        """Return the score of a picture, of those of its pieces."""
        pieces = zip(of, whole.tolist(), strict=True)
        return max(one[kind] * units.of(kind, beside) for one, beside in pieces if units.counts(beside))

    owner = np.repeat(np.arange(len(found)), [len(pieces.copies) for pieces in found])
    of_plain = np.array([score(pieces.plain, pieces.whole) for pieces in found])
    of_copies = np.array([score(copy, pieces.whole) for pieces in found for copy in pieces.copies])
    wins, auc = compared(of_plain, of_copies, owner)
    return Weighed(weight, auc, wins)


def _pictures(gallery: Gallery, scales: Scales) -> Iterator[tuple[ImageRow, Image.Image, Image.Image]]:
    """Yield whole pictures that can be read, each with the one before it, to take parts from."""
    rows = scales.sample(PICTURES)
    before: Image.Image | None = None
    for row, image in originals(rows, gallery.settings.preprocessing):
        yield row, image, before or image
        before = image


class _Scoring:
    """Scores pieces of a gallery's pictures, and of copies of them, without the picture itself."""

    def __init__(self, detector: Detector, backbone: Backbone, scales: Scales) -> None:
        self._detector, self._backbone, self._scales = detector, backbone, scales
        self._how = detector.gallery.settings.preprocessing
        self._near = near_distance(detector.gallery)

    def picture(self, row: ImageRow, image: Image.Image, other: Image.Image) -> Pieces | None:
        """Score some pieces of a whole picture and of its copies; None where no defect shows, or nothing counts."""
        pieces = pieces_of(image.width, image.height, self._how)
        *tiles, last = range(len(pieces))
        rows = {sibling.id: sibling for sibling in siblings(self._detector.gallery, row)}
        region = self._detector.gallery.own_region(row.key)
        random = np.random.default_rng(row.key)
        copies: list[tuple[Image.Image, list[int]]] = []
        for box in (pieces[int(random.choice(tiles))].box, pieces[last].box):
            made = self._pasted(image, other, box, region, (row.key, len(copies)))
            if made is not None:
                touched = [number for number in tiles if _overlap(pieces[number].box, made[1])]
                copies.append((made[0], _some(touched, TILES)))
        numbers = sorted({*_some(tiles, TILES), *(number for _, some in copies for number in some)})
        there = [(number, rows.get(pieces[number].id(picture_of(row.id)))) for number in [*numbers, last]]
        counted = {number: of for number, of in there if of is not None and self._counts(of)}
        if not copies or last not in counted or len(counted) < 2:
            return None
        own = {of.key for of in rows.values()}
        plain = {number: self._alone(of, own) for number, of in counted.items()}
        found = []
        for copy, touched in copies:
            changed = [number for number in [*touched, last] if number in counted]
            parts = cut(copy, UNNAMED, self._how, b"", None, changed, thumbnails=False)
            found.append([*(plain | dict(zip(changed, self._queried(parts, region, own), strict=True))).values()])
        return Pieces(np.array([number == last for number in plain]), [*plain.values()], found)

    def _counts(self, row: ImageRow) -> bool:
        gallery, interest = self._detector.gallery, self._detector.interest
        return interest is None or interest.counts(place_of_row(gallery, row))

    def _pasted(
        self,
        image: Image.Image,
        other: Image.Image,
        box: Box,
        own: RegionOfInterest | None,
        seed: tuple[int, int],
    ) -> tuple[Image.Image, Box] | None:
        """Paste a defect of the size of a box into a copy of a picture; return it and where it differs.

        It lies in the gallery's region of interest and in the picture's `own`. Returns None if none can be seen there.
        """
        left, top = max(0, int(box[0])), max(0, int(box[1]))
        right, bottom = min(image.width, int(box[2])), min(image.height, int(box[3]))
        size = right - left, bottom - top
        scale = min(1.0, EDGE / max(size))
        shown = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        part = np.asarray(crop(image, (left, top, right, bottom)).resize(shown, Image.Resampling.BILINEAR))
        another = np.asarray(other.resize(shown, Image.Resampling.BILINEAR))
        place = Geometry(image.width, image.height, (left, top, right, bottom), region=own)
        inside = cells_inside(self._detector.gallery, place, part.shape[:2])
        if (made := paste(part, another, seed, inside)) is None:
            return None
        changed = Image.fromarray((made.pixels != part).any(2).astype(np.uint8) * 255).resize(size)
        copy = image.copy()
        copy.paste(Image.fromarray(made.pixels).resize(size, Image.Resampling.BILINEAR), (left, top), changed)
        x, y, x_end, y_end = changed.getbbox() or (0, 0, *size)
        return copy, (left + x, top + y, left + x_end, top + y_end)

    def _alone(self, row: ImageRow, own: set[int]) -> Scores:
        """Score a piece of the gallery."""
        gallery = self._detector.gallery
        pyramid = maps_as_new(gallery, [row])
        nearest = nearest_others(self._detector, [row], self._near, own)
        (pixels,) = self._detector.nearest_pixels(pyramid, nearest, [place_of_row(gallery, row)])
        return self._of(nearest[0], pixels)

    def _queried(
        self, parts: Sequence[DecodedImage], region: RegionOfInterest | None, own: set[int]
    ) -> Iterator[Scores]:
        """Yield the scores of pieces of a copy of a picture that has this region of interest."""
        for some in in_lots(parts, BATCH_SIZE):
            features = self._backbone(np.stack([part.pixels for part in some]))
            pooled, places = features.pooled.cpu().numpy(), [replace(part.geometry, region=region) for part in some]
            nearest = []
            for query, place in zip(pooled, places, strict=True):
                near = self._scales.near if place.whole else self._near
                nearest += self._detector.nearest_images(query[None], own, near, [place])
            found = self._detector.nearest_pixels(features.pyramid, nearest, places)
            yield from map(self._of, nearest, found)

    def _of(self, neighbours: list[Neighbour], pixels: PixelDetection) -> Scores:
        scores = image_scores(self._detector.pooled_score(neighbours), pixels.score)
        return dict([*scores.items(), (PEAK, pixels.peak)])


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _some(numbers: Sequence[int], most: int) -> list[int]:
    """Return up to so many of these numbers, evenly spread."""
    if len(numbers) <= most:
        return list(numbers)
    return [numbers[place] for place in np.linspace(0, len(numbers) - 1, most).round().astype(int)]
