"""Evaluate a detector on a test set: how well its scores separate defects from normality."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from spade_index.errors import ImageError, InputError
from spade_index.images.decode import DecodedImage
from spade_index.images.geometry import Geometry
from spade_index.images.loading import load_all
from spade_index.images.marks import OwnOutput
from spade_index.images.mask_pixels import orientation_of
from spade_index.images.masks import Marked, read_marks, union
from spade_index.settings import BATCH_SIZE, WORKERS, ImageScore

from .dataset import GOOD, UNLABELLED, LabelledImage
from .detection import Detection
from .detector import Detector
from .given import require_test_set
from .interest import countable
from .metrics import PixelMetrics
from .outcomes import SCORES, Outcomes
from .pictures import Joining, Pictures
from .tally import MOST, PixelTally

KEPT = 120  # images whose maps are kept to be shown; of more, the extremes of each kind
EXTREMES = 4  # of a kind, with the highest and with the lowest scores
PIXEL_FIGURES = {  # names in a summary, by those of PixelMetrics
    "roc_auc": "pixel_roc_auc",
    "average_precision": "pixel_average_precision",
    "f1_max": "pixel_f1_max",
    "pro": "pro",
    "pro_05": "pro_05",
}
SATURATING_FIGURES = {"spro": "spro", "spro_05": "spro_05"}


@dataclass(frozen=True)
class Judged:
    """An image of a test set, with its scores."""

    image: LabelledImage
    geometry: Geometry
    detection: Detection
    score_map: np.ndarray  # float32 [H, W], at the size at which pixels are compared
    mask: np.ndarray | None  # bool [H, W]; None for a defective image without a mask
    inside: np.ndarray | None = None  # bool [H, W], the pixels that count in a region of interest; None: all

    @property
    def kind(self) -> str:
        """The kind of defect, or "good"."""
        return self.image.kind

    @property
    def counted(self) -> np.ndarray:
        """The score map, without what is outside of a region of interest, in any shape."""
        return self.score_map if self.inside is None else self.score_map[self.inside]

    @property
    def defective(self) -> bool:
        """True if the image has a defect."""
        return self.kind != GOOD


@dataclass
class Evaluation:
    """The images of a test set that could be decoded, and the figures computed from their detections."""

    judged: list[Judged] = field(default_factory=list)  # all of a small test set; at most KEPT with their maps
    outcomes: Outcomes = field(default_factory=Outcomes)
    pixels: dict[str, PixelTally] = field(default_factory=dict)  # by kind
    loading: float = 0.0  # seconds spent waiting for decoded images
    extracting: float = 0.0  # seconds in the backbone
    searching: float = 0.0  # seconds in the image and the pixel level
    most: int = MOST  # pixel scores of a kind that are kept apart
    failed: list[str] = field(default_factory=list)  # images that could not be decoded, and why

    @property
    def kinds(self) -> list[str]:
        """The kinds of defect, sorted."""
        return sorted(self.outcomes.kinds - {GOOD})

    def image_roc_auc(self, score: ImageScore, kind: str | None = None) -> float:
        """Return the ROC AUC of an image score, for one kind of defect against the good images, or for all kinds."""
        return self.outcomes.metrics(score, [GOOD], self._defects(kind)).roc_auc

    def by_neighbours(self) -> dict[int, dict[str, float]]:
        """Return the image ROC AUC of `pooled` and `both` for each number of score neighbours that was searched."""
        return self.outcomes.by_neighbours([GOOD])

    def pixel_metrics(self, kind: str | None = None) -> PixelMetrics:
        """Return the figures of the pixels, for one kind of defect and the good images, or for all kinds."""
        return self.tally(kind).metrics()

    def tally(self, kind: str | None = None) -> PixelTally:
        """Return the pixels of one kind of defect and the good images, or of all kinds, counted by score."""
        tallies = [self.pixels[name] for name in (GOOD, *self._defects(kind)) if name in self.pixels]
        return reduce(PixelTally.joined, tallies, PixelTally(self.most))

    def why_no_pixels(self, kind: str | None = None) -> str | None:
        """Return why there are no figures of pixels; None where there are."""
        if not any(name in self.pixels for name in self._defects(kind)):
            return "no defective image has a mask"
        curve = self.tally(kind).curve()
        if not curve.defective.sum():
            return "the masks mark no pixel"
        return None if curve.normal.sum() else "the masks mark every pixel"

    def add(self, judged: Judged, marks: Sequence[Marked] = ()) -> None:
        """Take an image into the figures."""
        self.outcomes.add(judged.kind, judged.detection)
        if judged.mask is not None:
            regions = [(marked.pixels, enough) for marked in marks if (enough := judged.image.enough(marked))]
            self.pixels.setdefault(judged.kind, PixelTally(self.most)).add(
                judged.mask, judged.score_map, regions, judged.inside
            )
        self.judged.append(judged)
        if len(self.judged) > KEPT:
            self.judged = _extremes(self.judged)

    def summary(self, image_score: ImageScore) -> dict[str, Any]:
        """Return all figures, ready for JSON; `image_score` is the one that `image_roc_auc` reports."""
        return {
            **self._figures(None, image_score),
            "image_score": image_score,
            "image_roc_auc_by_score_neighbours": self.by_neighbours(),
            "kinds": {kind: self._figures(kind, image_score) for kind in self.kinds},
            "not_decoded": not_decoded(self.failed),
            "seconds": {
                "loading": self.loading,
                "backbone": self.extracting,
                "search": self.searching,
                "search_per_image": self.searching / max(1, len(self.outcomes)),
            },
        }

    def _figures(self, kind: str | None, image_score: ImageScore) -> dict[str, Any]:
        tally, images = self.tally(kind), self.outcomes.metrics(image_score, [GOOD], self._defects(kind))
        found, errors = asdict(tally.metrics()), asdict(tally.errors())
        named = PIXEL_FIGURES if math.isnan(found["spro"]) else PIXEL_FIGURES | SATURATING_FIGURES
        return {
            "false_alarm_rate": self.outcomes.called([GOOD]),
            "hit_rate": self.outcomes.called(self._defects(kind)),
            "images": self.outcomes.count(kind),
            "image_roc_auc": _number(images.roc_auc),
            "image_average_precision": _number(images.average_precision),
            "image_f1_max": _number(images.f1_max),
            "image_roc_auc_by_score": {score: _number(self.image_roc_auc(score, kind)) for score in SCORES},
            **{name: _number(found[key]) for key, name in named.items()},
            "pixel_figures_within": {name: _number(errors[key]) for key, name in named.items()},
            "why_no_pixel_figures": self.why_no_pixels(kind),
        }

    def _defects(self, kind: str | None) -> list[str]:
        return self.kinds if kind is None else [kind]


def evaluate(
    detector: Detector,
    images: Sequence[LabelledImage],
    *,
    metric_size: int | None = None,
    batch_size: int = BATCH_SIZE,
    workers: int = WORKERS,
    notice: Callable[[str], None] = lambda line: None,
    progress: Callable[[int], None] = lambda images: None,
    each: Callable[[Judged], None] = lambda judged: None,
) -> Evaluation:
    """Search for every image of a test set.

    The memory does not grow with the number of images, but for about 100 bytes of image scores for each: score maps are
    counted as `PixelTally` says, which also states how exact the figures are.

    Args:
        detector: with a backbone, that makes a score map of every image.
        images: with at least one good and one defective image.
        metric_size: edge at which pixels are compared (the paper: 256); by default the size of the score maps.
        batch_size: images per batch.
        workers: decoding threads.
        notice: told of images that cannot be decoded, which are left out, and of masks that look wrong.
        progress: told of the number of images done.
        each: called with every image, also with those without a label, which are in no figure.

    Raises:
        InputError: a mask does not fit, no good or no defective image could be decoded, or a number is none.
        ValueError: the detector has no backbone, or does not make a score map of every image.
    """
    require_test_set(detector, images, metric_size, batch_size, workers)
    evaluation = Evaluation(most=max(1 << 14, min(MOST, (8 * MOST) // (1 + len({image.kind for image in images})))))
    by_file = {id(image.file): image for image in images}
    preprocessing = detector.gallery.settings.preprocessing

    def failed(error: ImageError) -> None:
        if not isinstance(error, OwnOutput):  # a picture that this package drew is no photograph
            evaluation.failed.append(str(error))
        notice(f"skipped {error}")
        progress(1)

    loaded = load_all(
        (image.file for image in images),
        preprocessing,
        workers=workers,
        ahead=2 * batch_size,
        on_error=failed,
        thumbnails=False,
    )
    pictures, joining = Pictures(), Joining.of(detector)
    started = time.perf_counter()
    while batch := list(islice(loaded, batch_size)):
        evaluation.loading += time.perf_counter() - started
        batch = countable(detector.interest, batch, failed)
        detections = _searched(evaluation, detector, batch) if batch else []
        for image, detection in pictures.completed(batch, detections, joining):
            progress(1)
            if image.notice is not None:
                notice(image.notice)
            judged, marks = _judge(by_file[id(image.file)], image.geometry, detection, metric_size, notice)
            each(judged)
            if judged.kind != UNLABELLED:
                evaluation.add(judged, marks)
        started = time.perf_counter()
    if not evaluation.outcomes.count(GOOD) or not evaluation.kinds:
        raise InputError("none of the good, or none of the defective test images could be decoded")
    return evaluation


def _searched(evaluation: Evaluation, detector: Detector, batch: Sequence[DecodedImage]) -> list[Detection]:
    """Return the detections of a batch; add the time that they take to the evaluation."""
    started = time.perf_counter()
    pooled, pyramid = detector.features(batch)
    extracted = time.perf_counter()
    detections = detector.detect_features(pooled, pyramid, places=[image.geometry for image in batch])
    evaluation.extracting += extracted - started
    evaluation.searching += time.perf_counter() - extracted
    return detections


def not_decoded(failed: Sequence[str]) -> dict[str, Any]:
    """Return, ready for JSON, how many images could not be decoded, and which, each with the reason."""
    return {"count": len(failed), "images": list(failed)}


def _judge(
    image: LabelledImage,
    geometry: Geometry,
    detection: Detection,
    metric_size: int | None,
    notice: Callable[[str], None],
) -> tuple[Judged, list[Marked]]:
    if detection.pixels is None:
        raise ValueError("an evaluation needs a score map of every image")
    score_map = detection.pixels.score_map
    if metric_size is not None:
        resized = Image.fromarray(score_map).resize((metric_size, metric_size), Image.Resampling.BILINEAR)
        score_map = np.asarray(resized)
    size = score_map.shape[0], score_map.shape[1]
    inside = detection.pixels.inside
    if inside is not None and metric_size is not None:
        inside = np.asarray(Image.fromarray(inside).resize((metric_size, metric_size), Image.Resampling.NEAREST))
    judged = Judged(image, geometry, detection, score_map, np.zeros(size, bool), inside)
    if image.mask is None:
        return judged if image.kind == GOOD else replace(judged, mask=None), []
    marks = read_marks(image.mask, geometry, size, orientation_of(image.file.read()))
    if image.kind == GOOD:
        for marked in marks:
            if marked.area:
                notice(f"{marked.path}: marks {marked.area} pixels of an image that is listed as good: taken as good")
        return judged, []
    for line in filter(None, (marked.strange() for marked in marks)):
        notice(line)
    mask = union(marks, size)
    if inside is not None and mask.any() and not (mask & inside).any():
        notice(f"{image.mask}: all that it marks is outside of the region of interest")
    return replace(judged, mask=mask), marks


def _extremes(judged: list[Judged]) -> list[Judged]:
    """Return those with the highest and the lowest scores of each kind, in their order; fewer where kinds are many."""
    kinds = sorted({one.kind for one in judged})[: KEPT // 2]
    share = max(1, min(EXTREMES, KEPT // (4 * len(kinds))))
    kept: set[int] = set()
    for kind in {GOOD, *kinds}:
        of_kind = sorted(
            (at for at, one in enumerate(judged) if one.kind == kind), key=lambda at: judged[at].detection.score
        )
        kept.update(of_kind[:share] + of_kind[-share:])
    return [judged[at] for at in sorted(kept)]


def _number(value: float) -> float | None:
    """Return a figure as JSON has it: None where it is not defined."""
    return None if math.isnan(value) else float(value)
