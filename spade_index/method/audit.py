"""Audit: the images of a gallery that are least like the others, and those that are nearly the same.

A defect that slipped into the gallery hides its own kind: it is found by what it scores when it is searched for without
itself, as `calibrate` stored it.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from spade_index.errors import InputError
from spade_index.exact import require_whole
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.index.search import ImageSearcher
from spade_index.gallery.reader import Gallery
from spade_index.images.loading import in_lots
from spade_index.settings import ImageScore

from .alone import near_distance, nearest_others
from .as_new import maps_as_new
from .detection import Detection, Question
from .detector import Detector
from .given import require_kind
from .normal_scores import NormalScores, stored_calibration
from .pixel_search import Elsewhere, images_of
from .scales import Scales, scales_of
from .siblings import are_siblings, place_of_row
from .tuned import tuned_search

COUNT = 20  # odd images, by default
SAMPLE = 1000  # images whose near-duplicates are looked for, unless all are
COPIES = 16  # nearest images of each that are looked at


@dataclass(frozen=True)
class OddImage:
    """An image of a gallery and what it scores without itself."""

    id: str
    path: str  # where it was when it was added
    score: float
    p_value: float  # share of the scored images that score at least as high, itself counted


@dataclass(frozen=True)
class Audit:
    """What to look at in a gallery."""

    snapshot: int
    kind: ImageScore  # that the images are ranked by
    images: int  # of the gallery
    scored: int  # of them, those that are ranked
    compared: int  # of them, those whose near-duplicates were looked for
    odd: list[OddImage]  # the highest score first
    doubled: list[list[str]]  # ids of near-duplicates: the largest group first, each in order


def audit(
    gallery: Gallery,
    count: int = COUNT,
    *,
    every: bool = False,
    progress: Callable[[int], None] = lambda images: None,
    elsewhere: Elsewhere | None = None,
) -> Audit:
    """Rank a gallery's images by their leave-one-out scores, and group near-duplicates.

    Ranks those that `calibrate` scored and compares up to 1,000; with `every`, scores the others, too, and compares
    all. Of each image only its score is kept in memory.

    Args:
        gallery: calibrated for its tuned settings.
        count: number of odd images to return, at most.
        every: score and compare every image of the gallery.
        progress: called with the number of images scored.
        elsewhere: where maps and the index are searched, as for `Detector`.

    Raises:
        InputError: the gallery is not calibrated, or `count` is no number from 1.
        TypeError: `gallery` is none.
    """
    require_kind("gallery", gallery, Gallery)
    require_whole("count", count, 1)
    search = tuned_search(gallery)
    stored = stored_calibration(gallery, search)
    if stored is None or stored.scores is None:
        raise InputError(
            f"{gallery.path}: its images have no scores of their own: `spade-index calibrate {gallery.path}` makes them"
        )
    kind = search.effective_image_score
    keys, scores = _still_there(gallery, stored.scores, kind)
    if every:
        progress(len(keys))
        detector, known = Detector(gallery, elsewhere=elsewhere), set(keys.tolist())
        more_keys, more_scores = _scored(detector, kind, known, progress)
        keys, scores = np.concatenate([keys, more_keys]), np.concatenate([scores, more_scores])
    highest = np.argsort(-scores, kind="stable")[:count]
    rows = gallery.catalog.images_by_key(keys[highest].tolist())
    ascending = np.sort(scores)
    odd = []
    for place in highest:
        row, score = rows[int(keys[place])], float(scores[place])
        as_high = len(scores) - int(np.searchsorted(ascending, score, side="left"))  # itself is one
        odd.append(OddImage(row.id, row.path, score, as_high / len(scores)))
    compared = len(gallery) if every else min(SAMPLE, len(gallery))
    asked = gallery.images() if every else iter(gallery.sample(SAMPLE))
    doubled = _near_duplicates(gallery, images_of(gallery, elsewhere), asked)
    return Audit(gallery.snapshot, kind, len(gallery), len(scores), compared, odd, doubled)


def without_themselves(detector: Detector, rows: Iterable[ImageRow]) -> Iterator[tuple[ImageRow, Detection]]:
    """Search for images of the gallery as `calibrate` does: each without itself and its near-duplicates."""
    gallery, near = detector.gallery, near_distance(detector.gallery)
    for some in in_lots(rows, detector.pixel_search.at_once):
        pyramid = maps_as_new(gallery, some)
        nearest = [neighbours for row in some for neighbours in nearest_others(detector, [row], near)]
        questions, places = [Question(maps="always")] * len(some), [place_of_row(gallery, row) for row in some]
        for query, detection in detector.judge(nearest, pyramid, questions, places):
            yield some[query], detection


def _still_there(gallery: Gallery, stored: NormalScores, kind: ImageScore) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys int64 [n] and scores float64 [n] of the scored images that the gallery holds."""
    rows = gallery.catalog.images_by_key(stored.keys.tolist())
    live = np.array([key in rows and rows[key].removed is None for key in stored.keys.tolist()], bool)
    return stored.keys[live], stored.of(kind)[live]


def _scored(
    detector: Detector, kind: ImageScore, known: set[int], progress: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Score the images whose keys are not known; return their keys int64 [n] and scores float64 [n]."""
    keys, scores = array("q"), array("d")
    others = (row for row in detector.gallery.images() if row.key not in known)
    for row, detection in without_themselves(detector, others):
        keys.append(row.key)
        scores.append(detection.scores[kind])
        progress(1)
    return np.array(keys, np.int64), np.array(scores, np.float64)


def _near_duplicates(gallery: Gallery, images: ImageSearcher, asked: Iterator[ImageRow]) -> list[list[str]]:
    near, scales = near_distance(gallery), scales_of(gallery)
    pairs = (
        pair
        for part in iter(lambda: list(islice(asked, SAMPLE)), [])
        for pair in _pairs(gallery, images, part, near, scales)
    )
    return sorted(_groups(pairs), key=lambda group: (-len(group), group))


def _pairs(
    gallery: Gallery, images: ImageSearcher, asked: list[ImageRow], near: float, scales: Scales | None
) -> Iterator[tuple[str, str]]:
    """Yield the ids of images and of their near-duplicates, which are none of their own pictures' tiles."""
    nearest = images.nearest(gallery.pooled(asked), COPIES + 1)
    for image, neighbours in zip(asked, nearest, strict=True):
        limit = near if scales is None or image.key not in scales.keys else scales.near
        for neighbour in neighbours:
            alike = scales is None or scales.are_alike(image.key, neighbour.key)
            if alike and not are_siblings(gallery, image.id, neighbour.id) and neighbour.distance <= limit:
                yield image.id, neighbour.id


def _groups(pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Return the connected groups of the pairs, each sorted."""
    group_of: dict[str, set[str]] = {}
    for pair in pairs:
        joined = set(pair).union(*(group_of.get(name, ()) for name in pair))
        for name in joined:
            group_of[name] = joined
    return [list(group) for group in {tuple(sorted(group)) for group in group_of.values()}]
