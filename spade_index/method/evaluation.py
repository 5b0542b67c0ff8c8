"""Evaluate a detector on a test set: how well its scores separate defects from normality."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from spade_index.errors import ImageError, InputError
from spade_index.images.decode import Geometry
from spade_index.images.loading import load_all
from spade_index.images.masks import read_mask
from spade_index.settings import BATCH_SIZE, WORKERS, ImageScore

from .dataset import GOOD, LabelledImage
from .detection import Detection
from .detector import Detector
from .metrics import PixelMetrics, pixel_metrics, roc_auc

NEIGHBOURS = (1, 3, 5, 10, 20, 50)  # for which `by_neighbours` reports
SCORES: tuple[ImageScore, ...] = ("pooled", "map", "both")


@dataclass(frozen=True)
class Judged:
    """An image of a test set, with its scores."""

    image: LabelledImage
    geometry: Geometry
    detection: Detection
    score_map: np.ndarray  # float32 [H, W], at the size at which pixels are compared
    mask: np.ndarray  # bool [H, W]

    @property
    def kind(self) -> str:
        """The kind of defect, or "good"."""
        return self.image.kind

    @property
    def defective(self) -> bool:
        """True if the image has a defect."""
        return self.kind != GOOD


@dataclass
class Evaluation:
    """The images of a test set that could be decoded, and the figures computed from their detections."""

    judged: list[Judged] = field(default_factory=list)
    loading: float = 0.0  # seconds spent waiting for decoded images
    extracting: float = 0.0  # seconds in the backbone
    searching: float = 0.0  # seconds in the image and the pixel level

    @property
    def kinds(self) -> list[str]:
        """The kinds of defect, sorted."""
        return sorted({judged.kind for judged in self.judged} - {GOOD})

    def image_roc_auc(self, score: ImageScore, kind: str | None = None) -> float:
        """Return the ROC AUC of an image score, for one kind of defect against the good images, or for all kinds."""
        chosen = self._of_kind(kind)
        labels = [judged.defective for judged in chosen]
        return roc_auc(np.array(labels), np.array([judged.detection.scores[score] for judged in chosen]))

    def by_neighbours(self) -> dict[int, dict[str, float]]:
        """Return the image ROC AUC of `pooled` and `both` for each number of score neighbours that was searched."""
        labels = np.array([judged.defective for judged in self.judged])
        pixels = [judged.detection.pixels for judged in self.judged]
        distances = np.array([[n.distance for n in found.neighbours] for found in pixels if found])  # [n, K]
        maxima = np.array([judged.detection.scores["map"] for judged in self.judged])
        figures: dict[int, dict[str, float]] = {}
        for k in NEIGHBOURS:
            if k <= distances.shape[1]:
                pooled = distances[:, :k].mean(1)
                figures[k] = {"pooled": roc_auc(labels, pooled), "both": roc_auc(labels, pooled * maxima)}
        return figures

    def pixel_metrics(self, kind: str | None = None) -> PixelMetrics:
        """Return pixel ROC AUC and PRO, for one kind of defect and the good images, or for all kinds."""
        chosen = self._of_kind(kind)
        return pixel_metrics([judged.mask for judged in chosen], [judged.score_map for judged in chosen])

    def summary(self, image_score: ImageScore) -> dict[str, Any]:
        """Return all figures, ready for JSON; `image_score` is the one that `image_roc_auc` reports."""
        return {
            **self._figures(None, image_score),
            "image_score": image_score,
            "image_roc_auc_by_score_neighbours": self.by_neighbours(),
            "kinds": {kind: self._figures(kind, image_score) for kind in self.kinds},
            "seconds": {
                "loading": self.loading,
                "backbone": self.extracting,
                "search": self.searching,
                "search_per_image": self.searching / max(1, len(self.judged)),
            },
        }

    def _figures(self, kind: str | None, image_score: ImageScore) -> dict[str, Any]:
        pixels = self.pixel_metrics(kind)
        by_score = {score: self.image_roc_auc(score, kind) for score in SCORES}
        good, defective = (self._called(self._of_kind(kind), wanted) for wanted in (False, True))
        return {
            "false_alarm_rate": good,
            "hit_rate": defective,
            "images": sum(kind in (None, judged.kind) for judged in self.judged),
            "image_roc_auc": by_score[image_score],
            "image_roc_auc_by_score": by_score,
            "pixel_roc_auc": pixels.roc_auc,
            "pro": pixels.pro,
        }

    @staticmethod
    def _called(judged: list[Judged], defective: bool) -> float | None:
        """Return the share of the good, or of the defective images that are called anomalous; None without verdicts."""
        verdicts = [one.detection.anomalous for one in judged if one.defective == defective]
        called = [verdict for verdict in verdicts if verdict is not None]
        return sum(called) / len(called) if called else None

    def _of_kind(self, kind: str | None) -> list[Judged]:
        return [judged for judged in self.judged if kind is None or judged.kind in (GOOD, kind)]


def evaluate(
    detector: Detector,
    images: Sequence[LabelledImage],
    *,
    metric_size: int | None = None,
    batch_size: int = BATCH_SIZE,
    workers: int = WORKERS,
    notice: Callable[[str], None] = lambda line: None,
    progress: Callable[[int], None] = lambda images: None,
) -> Evaluation:
    """Search for every image of a test set.

    Args:
        detector: with a backbone, that makes a score map of every image.
        images: with at least one good and one defective image.
        metric_size: edge at which pixels are compared (the paper: 256); by default the size of the score maps.
        batch_size: images per batch.
        workers: decoding threads.
        notice: told of images that cannot be decoded, which are left out.
        progress: told of the number of images done.

    Raises:
        InputError: a mask does not fit, or no good or no defective image could be decoded.
    """
    if detector.backbone is None:
        raise ValueError("this detector has no backbone")
    evaluation = Evaluation()
    by_file = {id(image.file): image for image in images}
    preprocessing = detector.gallery.settings.preprocessing

    def failed(error: ImageError) -> None:
        notice(f"skipped {error}")
        progress(1)

    loaded = load_all(
        (image.file for image in images), preprocessing, workers=workers, ahead=2 * batch_size, on_error=failed
    )
    started = time.perf_counter()
    while batch := list(islice(loaded, batch_size)):
        decoded = time.perf_counter()
        features = detector.backbone(np.stack([image.pixels for image in batch]))
        pooled = features.pooled.cpu().numpy()
        extracted = time.perf_counter()
        detections = detector.detect_features(pooled, features.pyramid)
        searched = time.perf_counter()
        evaluation.loading += decoded - started
        evaluation.extracting += extracted - decoded
        evaluation.searching += searched - extracted
        for image, detection in zip(batch, detections, strict=True):
            evaluation.judged.append(_judge(by_file[id(image.file)], image.geometry, detection, metric_size))
        progress(len(batch))
        started = time.perf_counter()
    if len({judged.defective for judged in evaluation.judged}) < 2:
        raise InputError("none of the good, or none of the defective test images could be decoded")
    return evaluation


def _judge(image: LabelledImage, geometry: Geometry, detection: Detection, metric_size: int | None) -> Judged:
    if detection.pixels is None:
        raise ValueError("an evaluation needs a score map of every image")
    score_map = detection.pixels.score_map
    if metric_size is not None:
        resized = Image.fromarray(score_map).resize((metric_size, metric_size), Image.Resampling.BILINEAR)
        score_map = np.asarray(resized)
    height, width = score_map.shape
    return Judged(image, geometry, detection, score_map, read_mask(image.mask, geometry, (height, width)))
