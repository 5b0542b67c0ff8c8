"""How well a gallery's scores separate good from bad: a run over an MVTec-layout dataset."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from spade_index.errors import ImageError, InputError
from spade_index.images.decode import DecodedImage, Geometry, decode
from spade_index.images.find import SUFFIXES, ImageFile, find_images
from spade_index.images.loading import load_all
from spade_index.settings import BATCH_SIZE, WORKERS, ImageScore

from .detection import Detection
from .detector import Detector
from .metrics import PixelMetrics, pixel_metrics, roc_auc

GOOD = "good"
NEIGHBOURS = (1, 3, 5, 10, 20, 50)  # for which `by_neighbours` reports
MASK_FROM = 128  # grey level from which a pixel of a ground truth is defective


@dataclass(frozen=True)
class TestImage:
    """An image of a dataset's test set."""

    __test__ = False  # pytest: no test case

    file: ImageFile
    kind: str
    mask: Path | None


@dataclass
class Evaluation:
    """Scores and maps of a test set, and the figures that follow from them."""

    images: list[TestImage] = field(default_factory=list)
    geometries: list[Geometry] = field(default_factory=list)
    detections: list[Detection] = field(default_factory=list)
    score_maps: list[np.ndarray] = field(default_factory=list)  # float32 [H, W], of the size of comparison
    masks: list[np.ndarray] = field(default_factory=list)  # bool [H, W]
    loading: float = 0.0  # seconds spent waiting for decoded images
    extracting: float = 0.0  # in the backbone
    searching: float = 0.0  # in both stages

    @property
    def kinds(self) -> list[str]:
        """The kinds of defects, sorted."""
        return sorted({image.kind for image in self.images} - {GOOD})

    def image_roc_auc(self, score: ImageScore, kind: str | None = None) -> float:
        """Of one of the three image scores, for one kind of defect against the good images, or for all."""
        chosen = self._of_kind(kind)
        labels = [self.images[place].kind != GOOD for place in chosen]
        return roc_auc(np.array(labels), np.array([self.detections[place].scores[score] for place in chosen]))

    def by_neighbours(self) -> dict[int, dict[str, float]]:
        """Image ROC AUC of `pooled` and `both` for other numbers of score neighbours, as far as they were found."""
        labels = np.array([image.kind != GOOD for image in self.images])
        distances = np.array([[n.distance for n in d.pixels.neighbours] for d in self.detections if d.pixels])
        maxima = np.array([d.scores["map"] for d in self.detections])
        found: dict[int, dict[str, float]] = {}
        for k in NEIGHBOURS:
            if k <= distances.shape[1]:
                pooled = distances[:, :k].mean(1)
                found[k] = {"pooled": roc_auc(labels, pooled), "both": roc_auc(labels, pooled * maxima)}
        return found

    def pixel_metrics(self, kind: str | None = None) -> PixelMetrics:
        """Pixel ROC AUC and PRO, for one kind of defect and the good images, or for all."""
        chosen = self._of_kind(kind)
        return pixel_metrics([self.masks[place] for place in chosen], [self.score_maps[place] for place in chosen])

    def summary(self, image_score: ImageScore) -> dict[str, Any]:
        """All figures, in values that JSON knows; `image_score` is the one that counts as the image's."""

        def figures(kind: str | None) -> dict[str, Any]:
            pixels = self.pixel_metrics(kind)
            scores: tuple[ImageScore, ...] = ("pooled", "map", "both")
            by_score = {score: self.image_roc_auc(score, kind) for score in scores}
            return {
                "images": len(self._of_kind(kind)) if kind is None else sum(i.kind == kind for i in self.images),
                "image_roc_auc": by_score[image_score],
                "image_roc_auc_by_score": by_score,
                "pixel_roc_auc": pixels.roc_auc,
                "pro": pixels.pro,
            }

        return {
            **figures(None),
            "image_score": image_score,
            "image_roc_auc_by_score_neighbours": self.by_neighbours(),
            "kinds": {kind: figures(kind) for kind in self.kinds},
            "seconds": {
                "loading": self.loading,
                "backbone": self.extracting,
                "search": self.searching,
                "search_per_image": self.searching / max(1, len(self.images)),
            },
        }

    def _of_kind(self, kind: str | None) -> list[int]:
        return [place for place, image in enumerate(self.images) if kind is None or image.kind in (GOOD, kind)]


def test_images(dataset: str | Path) -> list[TestImage]:
    """The test set of a dataset in MVTec layout: test/KIND/*, ground_truth/KIND/*_mask.png. Raises InputError."""
    root = Path(dataset)
    kinds = sorted(path for path in (root / "test").glob("*") if path.is_dir())
    found = [
        TestImage(file, kind.name, _mask_of(root / "ground_truth" / kind.name, Path(file.id)))
        for kind in kinds
        for file in find_images(kind, prefix=f"{kind.name}/")
    ]
    for wanted, there in (
        ("test/good", any(image.kind == GOOD for image in found)),
        ("test/KIND", any(image.kind != GOOD for image in found)),
    ):
        if not there:
            raise InputError(f"{root}: no images in {wanted}: a dataset in MVTec layout has test/good and test/KIND")
    for image in found:
        if image.kind != GOOD and image.mask is None:
            raise InputError(f"{image.file.path}: has no mask in {root / 'ground_truth' / image.kind}")
    return found


test_images.__test__ = False  # type: ignore[attr-defined]


def evaluate(
    detector: Detector,
    images: Sequence[TestImage],
    *,
    metric_size: int | None = None,
    batch_size: int = BATCH_SIZE,
    workers: int = WORKERS,
    notice: Callable[[str], None] = lambda line: None,
    progress: Callable[[int], None] = lambda images: None,
) -> Evaluation:
    """Detect in every image of a test set. Images that cannot be decoded are named to `notice` and left out.

    Pixels are compared at the size of the score map, or at `metric_size` squared (the paper: 256).
    Raises InputError if a mask does not fit, or if all images that are left are good, or defective.
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
            _note(evaluation, by_file[id(image.file)], image, detection, metric_size)
        progress(len(batch))
        started = time.perf_counter()
    if len({image.kind == GOOD for image in evaluation.images}) < 2:
        raise InputError("of the test's good images or of its defective ones none could be decoded")
    return evaluation


def read_mask(path: Path | None, geometry: Geometry, size: tuple[int, int]) -> np.ndarray:
    """A ground truth as the backbone's input sees its image: bool [H, W], by nearest neighbour; none is all False.

    Raises InputError if the file cannot be decoded or is not of its image's size.
    """
    if path is None:
        return np.zeros(size, bool)
    try:
        mask = decode(path.read_bytes(), str(path)).convert("L")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if mask.size != (geometry.width, geometry.height):
        raise InputError(f"{path}: is {mask.size}, but its image is {(geometry.width, geometry.height)}")
    fitted = mask.resize(size[::-1], Image.Resampling.NEAREST, box=geometry.box)
    return np.asarray(fitted) >= MASK_FROM


def _note(
    evaluation: Evaluation, image: TestImage, decoded: DecodedImage, detection: Detection, metric_size: int | None
) -> None:
    if detection.pixels is None:
        raise ValueError("an evaluation needs a score map of every image")
    score_map = detection.pixels.score_map
    if metric_size is not None:
        resized = Image.fromarray(score_map).resize((metric_size, metric_size), Image.Resampling.BILINEAR)
        score_map = np.asarray(resized)
    height, width = score_map.shape
    evaluation.images.append(image)
    evaluation.geometries.append(decoded.geometry)
    evaluation.detections.append(detection)
    evaluation.score_maps.append(score_map)
    evaluation.masks.append(read_mask(image.mask, decoded.geometry, (height, width)))


def _mask_of(folder: Path, name: Path) -> Path | None:
    def candidates() -> Iterator[Path]:
        relative = Path(*name.parts[1:])  # below the kind's folder
        for suffix in [".png", *sorted(SUFFIXES)]:
            yield folder / relative.with_name(f"{name.stem}_mask{suffix}")
            yield folder / relative.with_name(f"{name.stem}{suffix}")

    return next((path for path in candidates() if path.is_file()), None)
