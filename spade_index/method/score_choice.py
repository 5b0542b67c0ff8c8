"""Choose how distances become scores, once it is chosen how pixels are compared.

That takes no search but those of calibration: of the gallery's images, each without itself. So there are more normal
images than ways of comparing are tried on, with what their own neighbours score, and what counts is what a user asks
for: how many defects are called at a share of false alarms.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spade_index.gallery.reader import Gallery
from spade_index.gallery.store.leave_one_out import threshold_of
from spade_index.settings import CALIBRATION_SAMPLE, FALSE_ALARMS, SearchSettings

from .alone import Alone, search_alone
from .calibration import AT_LEAST, MINIMUM
from .contest import ERRORS, is_usual
from .metrics import roc_auc
from .normal_scores import ENOUGH, images_needed
from .planned import PlannedClock
from .scales import highest
from .scorings import Scoring, Searched, scorings
from .siblings import picture_numbers
from .synthetic import LEAST, Sample
from .trials import OF_A_QUERY, PIXEL_WEIGHT, RESAMPLES, Copies, Trials, changed, planned_ms

RATES = (0.02, 0.03, 0.05, 0.07, 0.1)  # shares of false alarms; hits are the mean over them, so that chance counts less
NORMAL = 500  # images of the gallery that are scored, at most
SHARE_OF_COPIES = 0.5  # of the time, at most


@dataclass(frozen=True)
class ScoreChoice:
    """How scores are made of distances, and how well these tell synthetic defects from the gallery's images."""

    search: SearchSettings
    hits: float  # share of the copies that are called anomalous, mean over RATES
    image_roc_auc: float
    pixel_roc_auc: float

    def row(self, ms: float) -> dict[str, Any]:
        """Return it in values for JSON, beside the trials of ways of comparing; `ms` is of one search."""
        figures = {"image_roc_auc": self.image_roc_auc, "pixel_roc_auc": self.pixel_roc_auc, "ms": ms}
        return {"search": changed(self.search), **figures, "hits": self.hits, "chosen": True}


def choose_scores(
    gallery: Gallery,
    sample: Sample,
    search: SearchSettings,
    seconds: float,
    *,
    searched: Callable[[int], None] = lambda images: None,
    **options: Any,
) -> tuple[ScoreChoice | None, list[Alone]]:
    """Choose how scores are made of the distances that a way of comparing finds.

    Args:
        gallery: with images enough to calibrate on.
        sample: plain images and copies with a defect.
        search: the way of comparing.
        seconds: that searching is planned to take, but not before 10 images of the sample are searched for, and as
            many of the gallery as `calibrate` scores at least.
        searched: called with 1 after each of the gallery's images.
        options: device, kernel, map_memory and elsewhere, as for `Detector`.

    Returns:
        The choice, None where fewer than 10 pictures can be scored; and what was found of the gallery's images, which
        need not be searched for again to calibrate.
    """
    planned = OF_A_QUERY + planned_ms(gallery, search) / 1e3
    count = int(SHARE_OF_COPIES * seconds / planned * len(sample.plain) / len(sample.owner))
    sample = sample.some(min(len(sample.plain), max(LEAST, count)))
    trials, clock = Trials(gallery, sample, **options), PlannedClock()
    detector = trials.detector(search)
    copies = trials.copies(detector)
    clock.spend(planned * len(sample.owner))
    least = AT_LEAST if gallery.settings.preprocessing.tile is None else images_needed(FALSE_ALARMS)
    until = min(seconds, clock.seconds() + planned * NORMAL)

    def done(images: int) -> None:
        clock.spend(planned * images)
        searched(images)

    images = gallery.sample(CALIBRATION_SAMPLE)
    alone = search_alone(detector, images, lambda number: number < least or clock.seconds() < until, done)
    normal = [image for image in alone if not image.place.whole]
    pictures = picture_numbers(gallery, np.array([image.key for image in normal], np.int64))
    compared = _Compared(sample.owner, np.arange(len(normal)) if pictures is None else pictures)
    if len({*compared.pictures.tolist()}) < MINIMUM:
        return None, alone
    tried = list(scorings(detector, search, _joined(normal, copies, sample), known=True))
    usual = max((one for one in tried if is_usual(one.search, known=True)), key=compared.quality)
    best = max(tried, key=compared.quality)
    return compared.choice(best if compared.is_better(best, usual) else usual), alone


def _joined(normal: Sequence[Alone], copies: Copies, sample: Sample) -> Searched:
    """Return what was found of the gallery's images and of the copies, with the rows of each one's neighbours."""
    rows = {image.key: row for row, image in enumerate(normal)}
    neighbours = [*(image.neighbours for image in normal), *copies.neighbours]
    near = [np.array([rows[key] for key in keys if key in rows], np.int64) for keys in neighbours]
    return Searched(
        np.concatenate([np.stack([image.distances for image in normal]), copies.distances]),
        np.concatenate([[image.pooled for image in normal], copies.pooled]),
        [of if len(of) >= ENOUGH else np.arange(len(normal)) for of in near],
        sample.masks,
        [*(image.place for image in normal), *copies.places],
    )


class _Compared:
    """How well scorings tell copies from the gallery's pictures, and whether one is better than another."""

    def __init__(self, owner: np.ndarray, pictures: np.ndarray) -> None:
        """Prepare to compare: `owner` int64 [m] of the copies; `pictures` int64 [n], which of them a tile is of."""
        self._owner, self.pictures = owner, pictures

    def quality(self, scoring: Scoring) -> float:
        """Return the figure that is compared, 0..1."""
        return _quality(_hits(*self._split(scoring)), scoring.pixel_roc_auc)

    def choice(self, scoring: Scoring) -> ScoreChoice:
        """Return a scoring with its figures."""
        plain, copies = self._split(scoring)
        labels = np.repeat([False, True], [len(plain), len(copies)])
        auc = roc_auc(labels, np.concatenate([plain, copies]))
        return ScoreChoice(scoring.search, _hits(plain, copies), auc, scoring.pixel_roc_auc)

    def is_better(self, one: Scoring, other: Scoring) -> bool:
        """Return whether a scoring is better by more than ERRORS standard errors, of hits, of the difference.

        Pictures are drawn again, and images of the sample with their copies.
        """
        draws, differences = np.random.default_rng(0), []
        of_owner = [np.flatnonzero(self._owner == owner) for owner in np.unique(self._owner)]
        split = [self._split(scoring) for scoring in (one, other)]
        for _ in range(RESAMPLES):
            drawn = draws.integers(0, len(split[0][0]), len(split[0][0]))
            copies = np.concatenate([of_owner[image] for image in draws.integers(0, len(of_owner), len(of_owner))])
            one_hits, other_hits = (_hits(plain[drawn], scores[copies]) for plain, scores in split)
            differences.append(one_hits - other_hits)
        return self.quality(one) - self.quality(other) > ERRORS * (1 - PIXEL_WEIGHT) * float(np.std(differences))

    def _split(self, scoring: Scoring) -> tuple[np.ndarray, np.ndarray]:
        """Return the scores of the pictures, and of the copies."""
        plain = highest(scoring.scores[: len(self.pictures)], self.pictures)
        return plain, scoring.scores[len(self.pictures) :]


def _hits(plain: np.ndarray, copies: np.ndarray) -> float:
    """Return the share of copies above the threshold of normal scores, mean over RATES."""
    ascending = np.sort(plain)
    thresholds = [threshold_of(ascending, rate) for rate in RATES]
    return float(np.mean([0.0 if threshold is None else (copies > threshold).mean() for threshold in thresholds]))


def _quality(hits: float, pixel_roc_auc: float) -> float:
    return (1 - PIXEL_WEIGHT) * hits + PIXEL_WEIGHT * pixel_roc_auc
