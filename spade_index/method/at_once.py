"""Calibrate in memory, for one run: a search with other settings than those that a gallery is calibrated for."""

import torch

from spade_index.gallery.reader import Gallery
from spade_index.settings import SearchSettings

from .calibration import calibrate, can_calibrate
from .commands import usual_false_alarms
from .normal_scores import NormalScores, Stored
from .quiet_clock import QuietClock
from .tuned import calibration_for, interested, tuned_search

SAMPLE = 100  # images that are scored, at most: always the same, so that a run can be repeated
SECONDS = 20.0  # that scoring them may take; where it would take longer, nothing is calibrated
TRIED = 3  # images, whose time tells that of all


def calibrate_at_once(
    gallery: Gallery,
    search: SearchSettings,
    *,
    seconds: float = SECONDS,
    device: torch.device | str | None = None,
    kernel: str | None = None,
    map_memory: int | None = None,
) -> Stored | None:
    """Score up to 100 of a gallery's images; None where that is not wanted, or takes too long. Nothing is stored.

    It is wanted where the gallery is calibrated for its own settings, but not for these. Galleries of tiles, each
    picture of which has many, take too long.

    Args:
        gallery: that is searched.
        search: how it is searched.
        seconds: that it may take, approximately.
        device: of the pixel search, as for `Detector`.
        kernel: as for `Detector`.
        map_memory: as for `Detector`.
    """
    search = interested(gallery, search)
    wanted = calibration_for(gallery, tuned_search(gallery)) is not None and calibration_for(gallery, search) is None
    if not wanted or gallery.settings.preprocessing.tile is not None or not can_calibrate(gallery):
        return None
    clock = QuietClock()
    for images in (min(TRIED, len(gallery)), min(SAMPLE, len(gallery))):
        if clock.seconds() / TRIED * images > seconds:
            return None
        found = calibrate(
            gallery,
            search,
            false_alarms=usual_false_alarms(gallery),
            sample=images,
            device=device,
            kernel=kernel,
            map_memory=map_memory,
        )
    return Stored(
        found.snapshot, found.false_alarms, found.thresholds, NormalScores.of_gallery(gallery, found.found, search)
    )
