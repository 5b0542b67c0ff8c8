"""Is the share of false alarms kept? Random splits of a gallery's images into a smaller gallery and new images.

It is kept on average where new images are like the gallery's. A dataset's own test images may not be.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from spade_index.errors import InputError
from spade_index.gallery.index.search import Neighbour
from spade_index.gallery.reader import Gallery
from spade_index.gallery.store.leave_one_out import LeaveOneOut
from spade_index.settings import CALIBRATION_SAMPLE, SearchSettings

from .calibration import near_distance
from .detector import Detector, others
from .normal_scores import NormalScores
from .scores import image_scores, map_score

RATES = (0.02, 0.05, 0.1)
SHARE = 0.75  # of the images that are the smaller gallery
LEAST = 14  # images: three quarters of them are as many as can be calibrated on
SPARE = 4  # times the neighbours of a search that are found, so that enough of them are in the smaller gallery


@dataclass(frozen=True)
class Kept:
    """How often new images were called anomalous at a share of false alarms that was asked for."""

    asked: float
    mean: float  # over all splits
    deviation: float  # from split to split


def false_alarms_kept(
    gallery: Gallery,
    search: SearchSettings,
    splits: int,
    *,
    progress: Callable[[int], None] = lambda splits: None,
    **options: Any,
) -> list[Kept]:
    """Return, for each of RATES, the share of false alarms over random splits of up to 1,000 images.

    Args:
        gallery: with at least 14 images.
        search: settings to search with.
        splits: number of splits; each takes as long as to calibrate.
        progress: called with 1 after each.
        options: device, kernel and map_memory, as for `Detector`.

    Raises:
        InputError: the gallery has too few images.
    """
    if len(gallery) < LEAST:
        raise InputError(f"{gallery.path}: {len(gallery)} images are too few to split; add at least {LEAST}")
    random = np.random.default_rng(0)
    simulated = _Splits(gallery, search, options)
    rates = []
    for _ in range(splits):
        rates.append(simulated.rates(random))
        progress(1)
    return [
        Kept(asked, float(kept.mean()), float(kept.std())) for asked, kept in zip(RATES, np.array(rates).T, strict=True)
    ]


class _Splits:
    def __init__(self, gallery: Gallery, search: SearchSettings, options: dict[str, Any]) -> None:
        self._detector = Detector(gallery, search=search, calibrated=False, **options)
        self._rows = gallery.sample(CALIBRATION_SAMPLE)
        pooled, near = gallery.pooled(self._rows), near_distance(gallery)
        nearest = gallery.nearest(pooled, SPARE * max(search.gallery_neighbours, search.score_neighbours))
        self._neighbours = [others(found, row.key, near) for row, found in zip(self._rows, nearest, strict=True)]

    def rates(self, random: np.random.Generator) -> list[float]:
        """Split once; return the share of the new images that are called anomalous, for each of RATES."""
        detector, most = self._detector, self._detector.search.gallery_neighbours
        inside = random.permutation(len(self._rows)) < SHARE * len(self._rows)
        keys = {row.key for row, is_inside in zip(self._rows, inside, strict=True) if is_inside}
        nearest = [[n for n in of_image if n.key in keys] for of_image in self._neighbours]
        candidates = [of_image[:most] for of_image in nearest]
        means = np.stack([self._mean(row.key, of) for row, of in zip(self._rows, candidates, strict=True)])
        own = NormalScores(LeaveOneOut(np.array(sorted(keys)), {}, means[inside]))
        taken = np.stack([own.own_map([n.key for n in of_image]) for of_image in candidates])
        maps = detector.score_maps(torch.from_numpy(means - detector.search.subtract_neighbours * taken))
        scores = np.array(
            [
                image_scores(detector.pooled_score(of_image), map_score(of, detector.search.top_share))[detector.kind]
                for of_image, of in zip(nearest, maps, strict=True)
            ]
        )
        normal = NormalScores(LeaveOneOut(np.array(sorted(keys)), {detector.kind: scores[inside]}, means[inside]))
        p_values = np.array([normal.p_value(detector.kind, score) for score in scores[~inside]])
        return [float((p_values <= rate).mean()) for rate in RATES]

    def _mean(self, key: int, candidates: list[Neighbour]) -> np.ndarray:
        """Return the mean distances float32 [P] of an image's cells, searched for among those of the candidates."""
        pyramid = [torch.from_numpy(level).float() for level in self._detector.gallery.maps([key])]
        (pixels,) = self._detector.search_pixels(self._detector.comparison.prepare(pyramid), [candidates])
        mean: np.ndarray = pixels.distances.mean(2)[0].cpu().numpy()
        return mean
