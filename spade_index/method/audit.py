"""Audit: the images of a gallery that are least like the others, and those that are nearly the same.

A defect that slipped into the gallery hides its own kind: it is found by what it scores when it is searched for without
itself, as `calibrate` stored it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from spade_index.errors import InputError
from spade_index.gallery.reader import Gallery
from spade_index.settings import ImageScore

from .calibration import near_distance
from .normal_scores import stored_calibration
from .tuned import tuned_search

COUNT = 20  # odd images, by default
SAMPLE = 1000  # images whose near-duplicates are looked for
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
    scored: int  # images that have a leave-one-out score
    odd: list[OddImage]  # the highest score first
    doubled: list[list[str]]  # ids of near-duplicates: the largest group first, each in order


def audit(gallery: Gallery, count: int = COUNT) -> Audit:
    """Rank a gallery's images by their leave-one-out scores, and group near-duplicates among up to 1,000 of them.

    Args:
        gallery: calibrated for its tuned settings.
        count: number of odd images to return, at most.

    Raises:
        InputError: the gallery is not calibrated.
    """
    search = tuned_search(gallery)
    stored = stored_calibration(gallery, search)
    if stored is None or stored.scores is None:
        raise InputError(
            f"{gallery.path}: its images have no scores of their own: `spade-index calibrate {gallery.path}` makes them"
        )
    kind = search.effective_image_score
    keys, scores = stored.scores.keys, stored.scores.of(kind)
    rows = gallery.catalog.images_by_key(keys.tolist())
    live = np.array([key in rows and rows[key].removed is None for key in keys.tolist()], bool)
    keys, scores = keys[live], scores[live]
    ascending = np.sort(scores)
    odd = []
    for place in np.argsort(-scores, kind="stable")[:count]:
        row, score = rows[int(keys[place])], float(scores[place])
        as_high = len(scores) - int(np.searchsorted(ascending, score, side="left"))  # itself is one
        odd.append(OddImage(row.id, row.path, score, as_high / len(scores)))
    return Audit(gallery.snapshot, kind, len(scores), odd, _near_duplicates(gallery))


def _near_duplicates(gallery: Gallery) -> list[list[str]]:
    images = gallery.sample(SAMPLE)
    if len(images) < 2:
        return []
    near = near_distance(gallery)
    nearest = gallery.nearest(gallery.pooled(images), COPIES + 1)
    pairs = (
        (image.id, neighbour.id)
        for image, neighbours in zip(images, nearest, strict=True)
        for neighbour in neighbours
        if neighbour.key != image.key and neighbour.distance <= near
    )
    return sorted(_groups(pairs), key=lambda group: (-len(group), group))


def _groups(pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Return the connected groups of the pairs, each sorted."""
    group_of: dict[str, set[str]] = {}
    for pair in pairs:
        joined = set(pair).union(*(group_of.get(name, ()) for name in pair))
        for name in joined:
            group_of[name] = joined
    return [list(group) for group in {tuple(sorted(group)) for group in group_of.values()}]
