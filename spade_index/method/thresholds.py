"""From which score on an image, and a place in it, is called anomalous: thresholds of a gallery's calibration."""

from dataclasses import dataclass, field

from spade_index.errors import InputError
from spade_index.gallery.reader import Gallery
from spade_index.settings import FALSE_ALARMS, ImageScore, SearchSettings

from .by_neighbours import needs_own_scores
from .commands import calibrate_command
from .normal_scores import NormalScores, Stored, stored_calibration
from .scores import PEAK


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of the image scores and of the score map for a share of false alarms."""

    false_alarms: float  # share of normal images that may be called anomalous, in (0, 1)
    snapshot: int | None = None  # of the gallery, that they were computed on
    of_image: dict[ImageScore, float] = field(default_factory=dict)  # of the kinds for which there are enough images
    of_pixel: float | None = None
    normal_scores: NormalScores | None = None  # None: there are no p-values


def find_thresholds(
    gallery: Gallery, search: SearchSettings, false_alarms: float | None, calibrated: bool | Stored = True
) -> Thresholds:
    """Return the thresholds that a gallery's calibration for these search settings gives; empty if it has none.

    Args:
        gallery: that is searched.
        search: how it is searched.
        false_alarms: share of normal images that may be called anomalous, in (0, 1); None: as calibrated.
        calibrated: whether to use the gallery's calibration, or another for these settings.

    Raises:
        InputError: `false_alarms` is out of range, or the settings take the neighbours' own scores and none are stored.
        GalleryDamaged: the calibration cannot be read.
    """
    require_share(false_alarms)
    if calibrated is False:
        return Thresholds(FALSE_ALARMS)
    stored = stored_calibration(gallery, search) if calibrated is True else calibrated
    scores = None if stored is None else stored.scores
    if scores is None and needs_own_scores(search) and search.maps != "never":
        raise InputError(
            f"{gallery.path}: these search settings take what the neighbours themselves score, which is not known: run "
            f"`{calibrate_command(gallery, search)}`, or subtract 0 and use the absolute score"
        )
    if stored is None:
        return Thresholds(FALSE_ALARMS if false_alarms is None else false_alarms)
    rate = stored.false_alarms if false_alarms is None else false_alarms
    if scores is None:  # an earlier version stored thresholds for one share only
        return Thresholds(rate, stored.snapshot, dict(stored.thresholds) if false_alarms is None else {})
    return Thresholds(rate, stored.snapshot, scores.thresholds(rate), scores.threshold(PEAK, rate), scores)


def require_share(false_alarms: float | None) -> None:
    """Raise InputError unless a share of false alarms is in (0, 1), or None."""
    if false_alarms is None:
        return
    known = isinstance(false_alarms, int | float) and not isinstance(false_alarms, bool)
    if not known or not 0 < false_alarms < 1:
        raise InputError(f"the share of false alarms must be above 0 and below 1, not {false_alarms}")
