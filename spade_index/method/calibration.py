"""Thresholds from normal images only."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from spade_index.errors import InputError
from spade_index.gallery.reader import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.settings import SearchSettings

from .detector import Detector

RULE = "quantile of leave-one-out scores of the gallery's own images"
MINIMUM = 10  # images below which a quantile means nothing


def calibrate(
    gallery: Gallery,
    search: SearchSettings,
    *,
    quantile: float = 0.99,
    sample: int = 200,
    progress: Callable[[int], None] = lambda images: None,
    **where: Any,
) -> dict[str, object]:
    """Score up to `sample` of the gallery's images, each against all the others, and take a quantile of the scores.

    The threshold of each kind of score is the smallest such score that at least `quantile` of the sample does not
    exceed, so about 1 - quantile of normal images will be called anomalous. Images that resemble each other more
    than new ones resemble them (frames of a film, say) make it too low. `where` are the Detector's device, kernel and
    map_memory. Raises InputError for too few images.
    """
    if not 0 < quantile <= 1:
        raise InputError(f"the quantile must be in (0, 1], not {quantile}")
    if len(gallery) < MINIMUM:
        raise InputError(f"{gallery.path}: {len(gallery)} images are too few to calibrate on; add at least {MINIMUM}")
    every = SearchSettings(**{**vars(search), "maps": "always", "image_score": None})
    detector = Detector(gallery, search=every, **where)
    wanted = set(np.linspace(0, len(gallery) - 1, min(sample, len(gallery))).round().astype(int).tolist())
    scores = []
    for position, row in enumerate(gallery.images()):
        if position not in wanted:
            continue
        pyramid = [torch.from_numpy(level).float() for level in gallery.maps([row.key])]
        (detection,) = detector.detect_features(gallery.pooled([row]), pyramid, without=row.key)
        scores.append(detection.scores)
        progress(1)
    thresholds = {
        kind: float(np.quantile([score[kind] for score in scores], quantile, method="higher")) for kind in scores[0]
    }
    return {
        "rule": RULE,
        "quantile": quantile,
        "images": len(scores),
        "snapshot": gallery.snapshot,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "search": search.calibration_key(),
        "thresholds": thresholds,
    }


def store(writer: GalleryWriter, search: SearchSettings, calibration: dict[str, object]) -> None:
    """Keep a calibration in the gallery, in place of an earlier one for the same search settings."""
    writer.set_calibration(search.calibration_key(), calibration)
