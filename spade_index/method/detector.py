"""The method: SPADE, sub-image anomaly detection with deep pyramid correspondences (Cohen and Hoshen 2020).

1. Image level: the query's pooled descriptor finds its K nearest normal images. Their mean squared distance is the
   pooled score (section 3.2).
2. Pixel level: every pixel of the query's feature pyramid finds its kappa nearest among the pixels of only those
   images. Their mean squared distance, resized and smoothed, is the score map (section 3.3).
"""

import json
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from spade_index.errors import GalleryDamaged, GalleryError, InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery.catalog.check import REMEDY
from spade_index.gallery.index.search import Neighbour
from spade_index.gallery.reader import Gallery
from spade_index.images.decode import DecodedImage
from spade_index.kernels import MapPool, PoolStats, choose_kernel, nearest_pixels
from spade_index.settings import ImageScore, SearchSettings, default_score

from .detection import Detection, PixelDetection, Question

POOL_BYTES = 128 << 20  # of neighbours' maps that stay in memory, where no budget is given, without a GPU
POOL_SHARE = 0.5  # of a GPU's free memory likewise


class Detector:
    """Finds what is not normal in images, by a gallery of normal ones."""

    def __init__(
        self,
        gallery: Gallery,
        backbone: Backbone | None = None,
        search: SearchSettings | None = None,
        threshold: float | None = None,
        *,
        device: torch.device | str | None = None,
        kernel: str | None = None,
        map_memory: int | None = None,
    ) -> None:
        """`threshold` on the image score overrides the calibrated one. Without a backbone only features are searched.

        Pixels are searched on `device`, by default the backbone's, or without one the CPU, by the backend `kernel`
        (see `choose_kernel`). `map_memory` is how many bytes of normal images' maps stay there, by default 128 MiB, or
        half of a GPU's free memory; those of one query always fit.

        Raises SettingsMismatch if the backbone is not the gallery's, GalleryError if the gallery is empty, and
        InputError if `maps="auto"` has no threshold to go by, the level weights do not fit, or there is no such kernel.
        """
        self.search = search or SearchSettings()
        if backbone is not None:
            gallery.settings.require_equal(backbone.settings, str(gallery.path))
        if not len(gallery):
            raise GalleryError(f"{gallery.path}: the gallery is empty: add normal images first")
        self.gallery = gallery
        self.backbone = backbone
        self.device = torch.device(device or (backbone.device if backbone else "cpu"))
        try:
            self.kernel = choose_kernel(self.device, kernel)
        except ValueError as error:
            raise InputError(str(error)) from error
        self._map_memory = map_memory
        self.weights = level_weights(gallery, self.search)
        self.thresholds, self.calibrated_on = calibrated_thresholds(gallery, self.search)
        self.kind: ImageScore = self.search.effective_image_score
        if threshold is not None:
            self.thresholds[self.kind] = threshold
        self.require_answerable(Question())

    def detect(self, images: Sequence[DecodedImage]) -> list[Detection]:
        """Detections of a batch of images, in their order."""
        if self.backbone is None:
            raise ValueError("this detector has no backbone")
        features = self.backbone(np.stack([image.pixels for image in images]))
        return self.detect_features(features.pooled.cpu().numpy(), features.pyramid)

    def detect_features(self, pooled: np.ndarray, pyramid: list[Tensor], without: int | None = None) -> list[Detection]:
        """Detections of features: pooled float32 [B, D], pyramid [B, H*W, C] for each level.

        `without` is the key of an image that no query may be compared with: for one of the gallery's own, itself.
        """
        nearest = self.nearest_images(pooled, without)
        judged = dict(self.judge(nearest, pyramid, [Question()] * len(nearest)))
        return [judged[query] for query in range(len(nearest))]

    def judge(
        self, nearest: list[list[Neighbour]], pyramid: list[Tensor], questions: Sequence[Question]
    ) -> Iterator[tuple[int, Detection]]:
        """Number and detection of each query, as soon as it is known: first those that need no score map."""
        scores = [self.pooled_score(neighbours) for neighbours in nearest]
        shown = []
        for query, (score, question) in enumerate(zip(scores, questions, strict=True)):
            if self._wants_map(score, question):
                shown.append(query)
            else:
                yield query, self._detection(question, nearest[query], score, None)
        if len(shown) < len(scores):
            pyramid = [level[shown] for level in pyramid]
        found = self.nearest_pixels(pyramid, [nearest[query] for query in shown])
        for query, pixels in zip(shown, found, strict=True):
            yield query, self._detection(questions[query], nearest[query], scores[query], pixels)

    def nearest_images(self, pooled: np.ndarray, without: int | None = None) -> list[list[Neighbour]]:
        """Stage 1: for each descriptor float32 [B, D] the nearest normal images, as many as either stage needs."""
        wanted = max(self.search.score_neighbours, self.search.gallery_neighbours)
        if without is None:
            return self.gallery.nearest(pooled, wanted)
        nearest = self.gallery.nearest(pooled, wanted + 1)
        return [[n for n in neighbours if n.key != without][:wanted] for neighbours in nearest]

    def pooled_score(self, neighbours: list[Neighbour]) -> float:
        """The mean squared distance to the nearest images."""
        return float(np.mean([n.distance for n in neighbours[: self.search.score_neighbours]]))

    def nearest_pixels(self, pyramid: list[Tensor], nearest: list[list[Neighbour]]) -> Iterator[PixelDetection]:
        """Stage 2: each pixel of each query, [B, H*W, C] for each level, among its neighbours' pixels."""
        candidates = [neighbours[: self.search.gallery_neighbours] for neighbours in nearest]
        launched = None
        for queries in self._sharing(candidates):
            pages = self.map_pool.fetch([[n.key for n in candidates[query]] for query in queries])
            try:
                distances, matches = nearest_pixels(
                    [level[queries[0] : queries[-1] + 1].to(self.device) for level in pyramid],
                    self.map_pool.maps,
                    pages,
                    self.search.pixel_neighbours,
                    sizes=self.gallery.settings.sizes,
                    weights=self.weights,
                    mode=self.search.mode,
                    backend=self.kernel.backend,
                    precision=self.search.pixel_precision,
                )  # [B, P, kappa]
            except ValueError as error:
                raise InputError(f"{self.gallery.path}: the pixels cannot be searched so: {error}") from error
            before, launched = launched, (distances, matches, [candidates[query] for query in queries])
            if before:  # while a GPU searched these, the next ones' maps were fetched
                yield from self._pixel_detections(*before)
        if launched:
            yield from self._pixel_detections(*launched)

    def _pixel_detections(
        self, distances: Tensor, matches: Tensor, candidates: list[list[Neighbour]]
    ) -> Iterator[PixelDetection]:
        maps, size = self.score_maps(distances), self.gallery.settings.sizes[0]
        found = zip(maps, distances.cpu().numpy(), matches.cpu().numpy(), candidates, strict=True)
        for score_map, of_query, matched, neighbours in found:
            yield PixelDetection(score_map, of_query, matched, size, neighbours)

    @cached_property
    def map_pool(self) -> MapPool:
        """The normal images' maps that are in memory where they are searched."""
        settings = self.gallery.settings
        budget = self._map_memory
        if budget is None and self.device.type == "cuda":
            budget = int(POOL_SHARE * torch.cuda.mem_get_info(self.device)[0])
        return MapPool(
            POOL_BYTES if budget is None else budget,
            settings.sizes,
            [channels for channels, _, _ in settings.level_shapes],
            self.gallery.read_maps,
            device=self.device,
            fused=self.kernel.fused and self.search.mode == "concat-nearest",
            at_least=2 * self.search.gallery_neighbours,  # of the query that is searched, and of the next
            at_most=len(self.gallery),
        )

    @property
    def map_bytes(self) -> int:
        """Memory that normal images' maps take so far."""
        return self.map_pool.bytes if "map_pool" in vars(self) else 0

    @property
    def map_stats(self) -> PoolStats:
        """How many maps were found in memory, and how many read."""
        return self.map_pool.stats if "map_pool" in vars(self) else PoolStats()

    def score_maps(self, distances: Tensor) -> np.ndarray:
        """Squared distances [B, P, kappa] as score maps, float32 [B, H, W] of the backbone's input size."""
        coarse = distances.mean(2).unflatten(1, self.gallery.settings.sizes[0])  # [B, H0, W0]
        size = self.gallery.settings.preprocessing.input_size
        maps = F.interpolate(coarse[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
        return gaussian_filter(maps.cpu().numpy(), self.search.smoothing, axes=(1, 2))

    def require_answerable(self, question: Question) -> None:
        """Raise InputError if `auto` has no threshold to go by, or the image score needs a score map."""
        maps = question.maps or self.search.maps
        path = self.gallery.path
        if maps == "auto" and question.threshold is None and "pooled" not in self.thresholds:
            raise InputError(
                f"{path}: maps `auto` needs a threshold for these search settings: "
                f"run `spade-index calibrate {path}`, or give one"
            )
        if maps != "always" and self.search.image_score not in (None, "pooled"):
            raise InputError(f"image score `{self.search.image_score}` needs every image's score map: ask for `always`")

    def _wants_map(self, pooled_score: float, question: Question) -> bool:
        maps = question.maps or self.search.maps
        if maps == "auto":
            threshold = question.threshold
            return pooled_score > (self.thresholds["pooled"] if threshold is None else threshold)
        return maps == "always"

    def _sharing(self, candidates: list[list[Neighbour]]) -> Iterator[list[int]]:
        """Runs of queries whose neighbours' maps, shared ones once, fit into half of the pool.

        The other half is for those that are fetched meanwhile.
        """
        slots = max(1, self.map_pool.slots // 2)
        group: list[int] = []
        keys: set[int] = set()
        for query, neighbours in enumerate(candidates):
            more = keys | {n.key for n in neighbours}
            if group and len(more) > slots:
                yield group
                group, more = [], {n.key for n in neighbours}
            group.append(query)
            keys = more
        if group:
            yield group

    def _detection(
        self, question: Question, neighbours: list[Neighbour], score: float, pixels: PixelDetection | None
    ) -> Detection:
        scores: dict[ImageScore, float] = {"pooled": score}
        if pixels is not None:
            scores |= {"map": pixels.score, "both": score * pixels.score}
        kind = self.search.image_score or default_score(question.maps or self.search.maps)
        return Detection(
            self.gallery.snapshot,
            kind,
            scores,
            neighbours[: self.search.score_neighbours],
            self.thresholds.get(kind) if question.threshold is None else question.threshold,
            pixels,
        )


def level_weights(gallery: Gallery, search: SearchSettings) -> list[float]:
    """The weight of each level's squared distances. Raises InputError if there are not as many as levels."""
    levels = len(gallery.settings.levels)
    if search.level_weights == "equal":
        return [1.0] * levels
    if search.level_weights == "inverse-variance":
        return [1 / variance for variance in gallery.level_variances()]
    if len(search.level_weights) != levels:
        raise InputError(f"{gallery.path} has {levels} levels: give as many level weights, not {search.level_weights}")
    return [float(weight) for weight in search.level_weights]


def calibrated_thresholds(gallery: Gallery, search: SearchSettings) -> tuple[dict[ImageScore, float], int | None]:
    """The stored thresholds for these settings, and the snapshot that they were chosen on; none: {} and None.

    Raises GalleryDamaged.
    """
    stored = gallery.catalog.calibration(search.calibration_key())
    if stored is None:
        return {}, None
    try:
        calibration = json.loads(stored)
        thresholds = {kind: float(threshold) for kind, threshold in calibration["thresholds"].items()}
        return thresholds, calibration["snapshot"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise GalleryDamaged(f"{gallery.catalog.path}: a threshold cannot be read; {REMEDY}") from error
