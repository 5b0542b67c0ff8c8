"""What the gallery's own images score, each searched for without itself: what a score means, and when it is too high.

Conformal: if a new normal image is like the n that were scored, it scores as high as the k-th highest of them with
probability k / (n + 1), whatever the distribution of scores (Vovk, Gammerman and Shafer 2005). So its p-value is
(1 + the number of normal scores that are as high) / (n + 1).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spade_index.errors import GalleryDamaged
from spade_index.gallery.catalog.calibrations import read_calibration
from spade_index.gallery.catalog.check import REMEDY
from spade_index.gallery.reader import Gallery
from spade_index.gallery.store.leave_one_out import FOLDER, LeaveOneOut, remedy, threshold_of
from spade_index.settings import IMAGE_SCORES, ImageScore, SearchSettings

from .comparison import compared_sizes
from .scales import Units, highest, units_of
from .scores import PEAK, UNDIVIDED, counted_mean, divisors
from .siblings import picture_numbers, whole_flags

SCORES = (*IMAGE_SCORES, PEAK)  # of every image
ENOUGH = 3  # neighbours with a map of their own; with fewer, the mean over all images takes their place


class NormalScores:
    """Scores and maps of a gallery's images under one way of searching."""

    def __init__(
        self,
        found: LeaveOneOut,
        pictures: np.ndarray | None = None,
        whole: np.ndarray | None = None,
        weight: float = SearchSettings.whole_weight,
        *,
        own_regions: bool = False,
    ) -> None:
        """Take what was found.

        Args:
            found: scores and maps of n images.
            pictures: int64 [n], the number of the picture that each of them is a tile of; None: each is its own.
            whole: bool [n], which of them are whole pictures beside their tiles; None: there is one scale.
            weight: of whole pictures, as for `SearchSettings`.
            own_regions: whether images have regions of interest of their own, so that maps differ in what counts.
        """
        self._own_regions = own_regions
        self._found, self._whole = found, whole
        self._scores, self.units = found.scores, Units()
        counts = np.full(len(found), True)
        if pictures is not None and whole is not None:
            self.units = units_of(found.scores, pictures, whole, weight)
            factors = {kind: [self.units.of(kind, of) for of in (False, True)] for kind in found.scores}
            self._scores = {kind: of * np.array(factors[kind])[whole.astype(int)] for kind, of in found.scores.items()}
            counts = np.where(whole, self.units.counts(whole=True), self.units.counts(whole=False))
        own = np.arange(len(found)) if pictures is None else pictures
        self._ascending = {kind: np.sort(highest(of[counts], own[counts])) for kind, of in self._scores.items()}
        self._count = len(np.unique(own[counts]))

    @classmethod
    def of_gallery(cls, gallery: Gallery, found: LeaveOneOut, search: SearchSettings) -> "NormalScores":
        """Take what was found of images of a gallery under search settings."""
        pictures, whole = picture_numbers(gallery, found.keys), whole_flags(gallery, found.keys)
        own_regions = gallery.region_rule is not None
        return cls(found, pictures, whole, search.whole_weight, own_regions=own_regions)

    def __len__(self) -> int:
        """The number of images that were scored; of pictures, where these are cut into tiles."""
        return self._count

    @property
    def keys(self) -> np.ndarray:
        """The keys int64 [n] of the images that were scored, ascending."""
        return self._found.keys

    def of(self, kind: str) -> np.ndarray:
        """Return the scores float64 [n] of one kind, in the order of the keys; of two scales, in one unit."""
        return self._scores[kind]

    def p_value(self, kind: str, score: float) -> float:
        """Return the share of normal images that score at least as high, in 0..1, as a new one would find it."""
        scores = self._ascending[kind]
        return (1 + len(scores) - int(np.searchsorted(scores, score, side="left"))) / (1 + len(scores))

    def threshold(self, kind: str, false_alarms: float) -> float | None:
        """Return the score above which the p-value is at most `false_alarms`, or None if there are too few images."""
        return threshold_of(self._ascending[kind], false_alarms)

    def thresholds(self, false_alarms: float) -> dict[ImageScore, float]:
        """Return `threshold` of each image score, without those for which there are too few images."""
        found = {kind: self.threshold(kind, false_alarms) for kind in IMAGE_SCORES}
        return {kind: threshold for kind, threshold in found.items() if threshold is not None}

    def own_map(self, keys: Sequence[int], whole: bool = False) -> np.ndarray:
        """Return the mean, float32 [P], of the maps of the images with these keys; of all if few have one.

        `whole` says that they are whole pictures, where there are two scales.
        """
        rows = self._found.rows(keys)
        if len(rows) < ENOUGH:
            return self._mean_maps[self._scale(whole)]
        maps = self._found.maps_of(rows)
        if not self._own_regions:
            return np.asarray(maps.mean(0))
        return np.where(maps.any(0), counted_mean(maps, 0), self._mean_maps[self._scale(whole)])

    def own_score(self, keys: Sequence[int], whole: bool = False) -> float:
        """Return what the map score of an image with these neighbours is divided by: their mean, or that of all if few.

        `whole` is as for `own_map`; see `scores.divisors`.
        """
        rows, of_all = self._found.rows(keys), self._mean_scores[self._scale(whole)]
        mean = of_all if len(rows) < ENOUGH else self._found.scores[UNDIVIDED][rows].mean()
        return float(divisors(np.array([mean]), of_all)[0])

    def map_of(self, key: int) -> np.ndarray | None:
        """Return the map, float32 [P], of the image with this key, or None if it was not scored."""
        rows = self._found.rows([key])
        return np.asarray(self._found.maps_of(rows)[0]) if len(rows) else None

    def _scale(self, whole: bool) -> int:
        """Return the number of a scale: 1 for whole pictures beside their tiles, else 0."""
        return int(whole and self._whole is not None)

    def _by_scale(self, values: np.ndarray) -> list[np.ndarray]:
        """Return the values [n, ...] of each scale; of all images where a scale has none."""
        if self._whole is None or not len(values):
            return [values]
        return [some if len(some) else values for some in (values[~self._whole], values[self._whole])]

    @cached_property
    def _mean_scores(self) -> list[float]:
        """The mean map score, undivided, of each scale."""
        return [float(scores.mean()) for scores in self._by_scale(self._found.scores[UNDIVIDED])]

    @cached_property
    def _mean_maps(self) -> list[np.ndarray]:
        """The mean map of each scale."""
        of_scale = self._by_scale(self._found.maps[:])
        if self._own_regions:
            return [counted_mean(maps, 0) for maps in of_scale]
        return [maps.mean(0, dtype=np.float32) for maps in of_scale]


@dataclass(frozen=True)
class Stored:
    """A calibration that a gallery holds for search settings."""

    snapshot: int  # that it was computed on
    false_alarms: float  # the share of normal images that it allows to be called anomalous
    thresholds: dict[ImageScore, float]  # for that share
    scores: NormalScores | None  # None: it was stored by an earlier version, which kept thresholds only


def stored_calibration(gallery: Gallery, search: SearchSettings) -> Stored | None:
    """Return the calibration that a gallery holds for these search settings, or None.

    Raises:
        GalleryDamaged: it cannot be read.
    """
    text = gallery.catalog.calibration(gallery.calibration_key(search))
    if text is None:
        return None
    try:
        values = read_calibration(text)
    except ValueError as error:
        raise GalleryDamaged(f"{gallery.catalog.path}: a threshold cannot be read ({error}); {REMEDY}") from error
    false_alarms = float(values.get("false_alarms", 1 - values["quantile"]))  # earlier versions: the quantile only
    scores = None
    if "file" in values:
        path = gallery.file(f"{FOLDER}/{values['file']}")
        found = LeaveOneOut.read(path)
        kinds = {*SCORES, UNDIVIDED} if search.relative_score else {*SCORES}
        if found.maps.shape[1] != math.prod(compared_sizes(gallery, search)[0]) or not found.scores.keys() >= kinds:
            raise GalleryDamaged(f"{path}: it was made with other settings: {remedy(path)}")
        scores = NormalScores.of_gallery(gallery, found, search)
    thresholds = {kind: float(threshold) for kind, threshold in values["thresholds"].items()}
    return Stored(values["snapshot"], false_alarms, thresholds, scores)


def images_needed(false_alarms: float) -> int:
    """Return the least number of normal images for which a share of false alarms can be kept."""
    return math.ceil(1 / false_alarms - 1e-9) - 1
