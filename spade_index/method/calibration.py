"""Calibration: score the gallery's own images, each searched for without itself and its near-duplicates."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

import numpy as np
import torch

from spade_index.errors import InputError
from spade_index.gallery.reader import Gallery
from spade_index.gallery.store.leave_one_out import LeaveOneOut, as_stored
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images.geometry import Geometry
from spade_index.settings import CALIBRATION_SAMPLE, FALSE_ALARMS, ImageScore, SearchSettings
from spade_index.wording import too_few

from .alone import Alone, search_alone
from .by_neighbours import plain_search
from .detector import Detector
from .given import require_calibrating
from .normal_scores import NormalScores, images_needed
from .pixel_search import Elsewhere
from .quiet_clock import QuietClock
from .scores import PEAK, UNDIVIDED, enlarged, image_scores, map_score
from .siblings import own_slices, whole_flags
from .thresholds import require_share

RULE = "conformal: leave-one-out scores of the gallery's own images"
MINIMUM = 10  # images, or pictures; the scores of fewer say nothing
AT_LEAST = 100  # images that are scored, however long that takes; of pictures that are cut into tiles, what is needed


@dataclass(frozen=True)
class Calibration:
    """How a gallery's images were scored, as the gallery stores it, and the scores themselves."""

    rule: str
    false_alarms: float  # the share of normal images that the thresholds allow to be called anomalous
    images: int  # that were scored; pictures, where these are cut into tiles
    snapshot: int  # of the gallery
    created: str  # ISO 8601, UTC
    search: str  # `SearchSettings.calibration_key` of the settings that the scores hold for
    thresholds: dict[ImageScore, float]  # empty where there are too few images for that share
    found: LeaveOneOut

    @property
    def quantile(self) -> float:
        """The share of normal images at or below the threshold."""
        return 1 - self.false_alarms

    def record(self) -> dict[str, object]:
        """Return all but the scores, in values for JSON."""
        values = asdict(replace(self, found=None))  # type: ignore[arg-type]
        del values["found"]
        return {**values, "quantile": self.quantile}


def calibrate(
    gallery: Gallery,
    search: SearchSettings,
    *,
    false_alarms: float = FALSE_ALARMS,
    sample: int = CALIBRATION_SAMPLE,
    seconds: float | None = None,
    earlier: LeaveOneOut | None = None,
    searched: Sequence[Alone] = (),
    progress: Callable[[int], None] = lambda images: None,
    device: torch.device | str | None = None,
    kernel: str | None = None,
    map_memory: int | None = None,
    elsewhere: Elsewhere | None = None,
) -> Calibration:
    """Score up to `sample` of the gallery's images, each against all others but its near-duplicates.

    Near-duplicates (frames of a film, crops) do not stand in for each other: new images will not have any. Neither do
    the tiles of a picture: all of a picture's are scored, or none, and what is calibrated is the score of pictures.

    Args:
        gallery: with at least 10 images.
        search: the settings to calibrate for.
        false_alarms: share of normal images that the stored thresholds allow to be called anomalous, in (0, 1).
        sample: number of images to score at most, evenly spread.
        seconds: stop after this time, but not before 100 images are scored, or as many pictures that are cut into tiles
            as the share of false alarms takes.
        earlier: scores of this gallery at an earlier snapshot, with these settings: their images are not scored again.
        searched: what `search_alone` found of this gallery by the same way of comparing: these images are not
            searched for again, and as many are enough.
        progress: called with 1 after each image.
        device, kernel, map_memory, elsewhere: of the pixel search, as for `Detector`.

    Raises:
        InputError: `false_alarms` is out of range, another number is none, or too few images can be compared.
        TypeError: `gallery` or `search` is of another kind.
    """
    require_calibrating(gallery, search, sample, seconds)
    require_share(false_alarms)
    if len(gallery) < MINIMUM:
        raise InputError(f"{gallery.path}: {too_few(len(gallery), 'image')} to calibrate on; add at least {MINIMUM}")
    detector = Detector(
        gallery,
        search=plain_search(search),
        calibrated=False,
        device=device,
        kernel=kernel,
        map_memory=map_memory,
        elsewhere=elsewhere,
    )
    kept = _still_there(gallery, earlier) if earlier is not None else None
    known = set() if kept is None else set(kept.keys.tolist())
    alone = [image for image in searched if image.key not in known]
    known |= {image.key for image in alone}
    least = AT_LEAST if gallery.settings.preprocessing.tile is None else images_needed(false_alarms)
    until, clock = math.inf if seconds is None else seconds, QuietClock()

    def goes_on(number: int) -> bool:
        return (number < least and not searched) or clock.seconds() <= until

    alone += search_alone(detector, gallery.sample(sample), goes_on, progress, known)
    if not alone and not known:
        raise InputError(f"{gallery.path}: none of its images can be compared with others; `verify` may say why")
    found = _joined(_scored(detector, search, sorted(alone), kept), kept)
    normal = NormalScores.of_gallery(gallery, found, search)
    if gallery.settings.preprocessing.tile is not None and len(normal) < MINIMUM:
        raise InputError(f"{gallery.path}: {too_few(len(normal), 'picture')} to calibrate on; add at least {MINIMUM}")
    return Calibration(
        rule=RULE,
        false_alarms=false_alarms,
        images=len(normal),
        snapshot=gallery.snapshot,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        search=gallery.calibration_key(search),
        thresholds=normal.thresholds(false_alarms),
        found=found,
    )


def can_calibrate(gallery: Gallery) -> bool:
    """Return whether a gallery has enough images to calibrate on; enough pictures, where these are cut into tiles."""
    if gallery.settings.preprocessing.tile is not None:
        return gallery.catalog.picture_count(gallery.snapshot) >= MINIMUM
    return len(gallery) >= MINIMUM


def store(writer: GalleryWriter, search: SearchSettings, calibration: Calibration) -> None:
    """Store a calibration in the gallery; an earlier one for the same search settings is replaced."""
    writer.set_calibration(writer.gallery.calibration_key(search), calibration.record(), calibration.found)


def counted_scores(detector: Detector, distances: np.ndarray, cells: np.ndarray | None, place: Geometry) -> np.ndarray:
    """Return the scores that count of an image's score map, in any shape, of its cells' distances float32 [P]."""
    counting = None if cells is None else torch.from_numpy(cells)[None]
    how, size = detector.gallery.settings.preprocessing, detector.comparison.size
    part = own_slices(place, how.input_size, how)
    score_map = detector.score_maps(torch.from_numpy(distances)[None], counting)[0]
    if counting is None:
        return score_map[part]
    return score_map[part][enlarged(counting, size, score_map.shape)[0][part]]


def _scored(
    detector: Detector, search: SearchSettings, alone: list[Alone], kept: LeaveOneOut | None
) -> Iterator[tuple[int, dict[str, float], np.ndarray]]:
    """Yield key, scores and map of each image, whose neighbours' maps and map scores are all known now."""
    maps = as_stored([image.distances for image in alone]) if alone else np.empty((0, 0), np.float16)
    new = LeaveOneOut(np.array([image.key for image in alone], np.int64), {}, maps)
    known = _known(detector, new, kept)
    of_maps, peaks = [], []
    for image in alone:
        distances = image.distances
        if search.subtract_neighbours:
            distances = distances - search.subtract_neighbours * known.own_map(image.neighbours, image.place.whole)
        counted = counted_scores(detector, distances, image.cells, image.place)
        of_maps.append(map_score(counted, search.top_share))
        peaks.append(float(counted.max()))
    if search.relative_score:
        known = _known(detector, replace(new, scores={UNDIVIDED: np.array(of_maps)}), kept)
    for image, of_map, peak in zip(alone, of_maps, peaks, strict=True):
        divisor = known.own_score(image.neighbours, image.place.whole) if search.relative_score else 1.0
        scores: dict[str, float] = dict(image_scores(image.pooled, of_map / divisor).items())
        scores[PEAK] = peak
        if search.relative_score:
            scores[UNDIVIDED] = of_map
        yield image.key, scores, image.distances


def _known(detector: Detector, new: LeaveOneOut, kept: LeaveOneOut | None) -> NormalScores:
    """Return what is known so far of images that were scored now, and of those that were before."""
    found = new if kept is None else _merged(new, kept)
    own_regions = detector.gallery.region_rule is not None
    return NormalScores(found, whole=whole_flags(detector.gallery, found.keys), own_regions=own_regions)


def _joined(scored: Iterator[tuple[int, dict[str, float], np.ndarray]], kept: LeaveOneOut | None) -> LeaveOneOut:
    rows = list(scored)
    if not rows and kept is not None:
        return kept
    new = LeaveOneOut(
        np.array([key for key, _, _ in rows], np.int64),
        {kind: np.array([scores[kind] for _, scores, _ in rows]) for kind in rows[0][1]},
        as_stored([distances for _, _, distances in rows]),
    )
    return new if kept is None else _merged(new, kept)


def _merged(new: LeaveOneOut, kept: LeaveOneOut) -> LeaveOneOut:
    """Return two sets of images as one, in the order of their keys."""
    if not len(new):
        return kept
    keys = np.concatenate([new.keys, kept.keys])
    order = np.argsort(keys)
    scores = {kind: np.concatenate([values, kept.scores[kind]])[order] for kind, values in new.scores.items()}
    return LeaveOneOut(keys[order], scores, np.concatenate([new.maps, kept.maps])[order])


def _still_there(gallery: Gallery, earlier: LeaveOneOut) -> LeaveOneOut:
    """Return the part of earlier scores whose images are in the gallery."""
    rows = gallery.catalog.images_by_key(earlier.keys.tolist())
    live = np.array([key in rows and rows[key].removed is None for key in earlier.keys.tolist()], bool)
    scores = {kind: values[live] for kind, values in earlier.scores.items()}
    return LeaveOneOut(earlier.keys[live], scores, np.asarray(earlier.maps)[live])
