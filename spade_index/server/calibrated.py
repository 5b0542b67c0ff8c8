"""Keep a gallery calibrated when feedback changes it, so that the next verdict is of the images that are there now."""

from collections.abc import Callable

import torch

from spade_index.gallery.write.writer import GalleryWriter
from spade_index.method.judgement import carry_on
from spade_index.method.tuned import calibration_for, tuned_search

from .settings import ServeSettings


def keep_calibrated(
    writer: GalleryWriter,
    settings: ServeSettings,
    device: torch.device | None = None,
    require_wanted: Callable[[], None] = lambda: None,
) -> None:
    """Carry the calibrations on that the service and the gallery's own search settings have, where they have one.

    `device` is that of the pixel search; by default the CPU. `require_wanted` is called now and then, and may raise.
    """
    tuned = tuned_search(writer.gallery)
    for search in dict.fromkeys((tuned, settings.search.settings(tuned))):
        if calibration_for(writer.gallery, search) is not None:
            carry_on(writer, search, device=device, progress=lambda images: require_wanted())
