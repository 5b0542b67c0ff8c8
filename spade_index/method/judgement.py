"""Make a gallery able to judge: tune how it is searched, then calibrate what its scores mean."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch

from spade_index.errors import GalleryDamaged, InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery.reader import Gallery
from spade_index.gallery.store.leave_one_out import FOLDER, LeaveOneOut
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.settings import FALSE_ALARMS, TUNE_FROM, TUNE_SECONDS, SearchSettings

from . import calibration, tuning
from .alone import Alone
from .pixel_search import Elsewhere
from .tuned import calibration_for, tuned_search

CALIBRATE_SECONDS = 60.0  # that calibrating may take at the end of `build`


def tune_and_calibrate(
    writer: GalleryWriter,
    backbone: Backbone,
    *,
    seconds: float = TUNE_SECONDS,
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[int], None] = lambda images: None,
    device: torch.device | str | None = None,
    kernel: str | None = None,
    elsewhere: Elsewhere | None = None,
) -> None:
    """Tune a gallery and calibrate it for the settings chosen; do neither where it has fewer than 20 images.

    A gallery of fewer than 10 pictures that are cut into tiles is tuned alone.

    A gallery whose images cannot be read any more keeps its settings, and is calibrated for them.

    Args:
        writer: of the gallery.
        backbone: the gallery's.
        seconds: that tuning may take, approximately.
        say: told what was chosen, or why nothing could be.
        progress: called with the number of images calibrated on.
        device: of the pixel search, as for `Detector`.
        kernel: as for `Detector`.
        elsewhere: where maps are searched, as for `Detector`.
    """
    if len(writer.gallery) < TUNE_FROM:
        return
    how: dict[str, Any] = {"device": device or backbone.device, "kernel": kernel, "elsewhere": elsewhere}
    alone: Sequence[Alone] = ()
    try:
        found = tuning.tune(writer.gallery, backbone, seconds=seconds, searched=progress, **how)
    except InputError as error:
        say(f"not tuned: {error}")
    else:
        tuning.store(writer, found)
        alone = found.alone
        say(f"tuned: {found.why}")
    if not calibration.can_calibrate(writer.gallery):
        return
    carry_on(writer, tuned_search(writer.gallery), searched=alone, progress=progress, **how)


def can_judge(gallery: Gallery) -> bool:
    """Return whether a gallery was tuned, and calibrated for the settings chosen if it can be, as it is now."""
    tuned = gallery.catalog.tuned()
    if tuned is None or tuned["snapshot"] != gallery.snapshot:
        return False
    calibrated = calibration_for(gallery, tuned_search(gallery))
    if calibrated is None:
        return not calibration.can_calibrate(gallery)
    return bool(calibrated["snapshot"] == gallery.snapshot)


def carry_on(
    writer: GalleryWriter,
    search: SearchSettings,
    *,
    false_alarms: float = FALSE_ALARMS,
    searched: Sequence[Alone] = (),
    progress: Callable[[int], None] = lambda images: None,
    device: torch.device | str | None = None,
    kernel: str | None = None,
    elsewhere: Elsewhere | None = None,
) -> None:
    """Calibrate a gallery for search settings; images that were scored for them before are not scored again.

    Nor are images searched for that were `searched` (see `calibrate`). Maps are searched `elsewhere`, or here.

    The share of false alarms stays as it was asked for before; if it never was, it is `false_alarms`.
    """
    stored, earlier = calibration_for(writer.gallery, search), None
    if stored is not None and "file" in stored:
        with suppress(GalleryDamaged):  # then all are scored again
            earlier = LeaveOneOut.read(writer.path / FOLDER / str(stored["file"]))
    found = calibration.calibrate(
        writer.gallery,
        search,
        false_alarms=false_alarms if stored is None else float(stored.get("false_alarms", false_alarms)),
        seconds=CALIBRATE_SECONDS,
        earlier=earlier,
        searched=searched,
        progress=progress,
        device=device,
        kernel=kernel,
        elsewhere=elsewhere,
    )
    calibration.store(writer, search, found)
