"""Thresholds from normal images only: a quantile of leave-one-out scores."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

import numpy as np
import torch

from spade_index.errors import InputError
from spade_index.gallery.reader import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.settings import CALIBRATION_QUANTILE, CALIBRATION_SAMPLE, ImageScore, SearchSettings

from .detector import Detector

RULE = "quantile of leave-one-out scores of the gallery's own images"
MINIMUM = 10  # images; a quantile of fewer scores says nothing


@dataclass(frozen=True)
class Calibration:
    """Thresholds, and how they were chosen, as a gallery stores them."""

    rule: str
    quantile: float
    images: int  # that were scored
    snapshot: int  # of the gallery
    created: str  # ISO 8601, UTC
    search: str  # `SearchSettings.calibration_key` of the settings that the thresholds hold for
    thresholds: dict[ImageScore, float]


def calibrate(
    gallery: Gallery,
    search: SearchSettings,
    *,
    quantile: float = CALIBRATION_QUANTILE,
    sample: int = CALIBRATION_SAMPLE,
    progress: Callable[[int], None] = lambda images: None,
    device: torch.device | str | None = None,
    kernel: str | None = None,
    map_memory: int | None = None,
) -> Calibration:
    """Score up to `sample` of the gallery's images, each against all others, and take a quantile of the scores.

    The threshold of each kind of score is the smallest score of the sample that at least `quantile` of the sample does
    not exceed: about 1 - quantile of normal images will be called anomalous. The threshold is too low where the
    gallery's images resemble each other more than new images resemble them (frames of a film, for example).

    Args:
        gallery: with at least 10 images.
        search: the settings to calibrate for.
        quantile: in (0, 1].
        sample: number of images to score at most, evenly spaced.
        progress: called with 1 after each image.
        device: of the pixel search, as for `Detector`.
        kernel: as for `Detector`.
        map_memory: as for `Detector`.

    Raises:
        InputError: the quantile is out of range, or the gallery has too few images.
    """
    if not 0 < quantile <= 1:
        raise InputError(f"the quantile must be in (0, 1], not {quantile}")
    if len(gallery) < MINIMUM:
        raise InputError(f"{gallery.path}: {len(gallery)} images are too few to calibrate on; add at least {MINIMUM}")
    all_scores = replace(search, maps="always", image_score=None)
    detector = Detector(gallery, search=all_scores, device=device, kernel=kernel, map_memory=map_memory)
    wanted = set(np.linspace(0, len(gallery) - 1, min(sample, len(gallery))).round().astype(int).tolist())
    scores: list[dict[ImageScore, float]] = []
    for position, row in enumerate(gallery.images()):
        if position not in wanted:
            continue
        pyramid = [torch.from_numpy(level).float() for level in gallery.maps([row.key])]
        (detection,) = detector.detect_features(gallery.pooled([row]), pyramid, without=row.key)
        scores.append(detection.scores)
        progress(1)
    return Calibration(
        rule=RULE,
        quantile=quantile,
        images=len(scores),
        snapshot=gallery.snapshot,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        search=search.calibration_key(),
        thresholds={
            kind: float(np.quantile([score[kind] for score in scores], quantile, method="higher")) for kind in scores[0]
        },
    )


def store(writer: GalleryWriter, search: SearchSettings, calibration: Calibration) -> None:
    """Store a calibration in the gallery; an earlier one for the same search settings is replaced."""
    writer.set_calibration(search.calibration_key(), asdict(calibration))
