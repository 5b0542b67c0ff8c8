"""The method: SPADE, sub-image anomaly detection with deep pyramid correspondences (Cohen and Hoshen 2020).

1. Image level: the query's pooled descriptor finds its K nearest normal images. Their mean squared distance is the
   pooled score (section 3.2).
2. Pixel level: every pixel of the query's feature pyramid finds its kappa nearest among the pixels of only those
   images. Their mean squared distance, resized and smoothed, is the score map (section 3.3).
3. Verdict: the image score is compared with the scores of the gallery's own images, each searched for without itself.

How pixels are compared is in `comparison`, how the pixel search is scheduled in `pixel_search`, what the neighbours'
own scores change in `by_neighbours`, what a score means in `normal_scores`, and from which score on an image is
called anomalous in `thresholds`.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from spade_index.errors import GalleryError, InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery.index.search import Neighbour
from spade_index.gallery.reader import Gallery
from spade_index.images.decode import DecodedImage
from spade_index.images.geometry import Geometry
from spade_index.kernels import choose_kernel
from spade_index.settings import ImageScore, SearchSettings

from .by_neighbours import ByNeighbours
from .commands import calibrate_command
from .comparison import Comparison
from .detection import Detection, PixelDetection, Question
from .given import require_features, require_images, require_parts
from .interest import interest_of, require_countable
from .known_defects import Sample, known_defects_of
from .normal_scores import Stored
from .pixel_search import Elsewhere, Found, PixelSearch, PixelSearcher, images_of
from .scales import Units, scales_of
from .scores import image_scores, map_score, pooled_score, score_maps
from .siblings import Places, nearest_besides, others, own_slices
from .thresholds import find_thresholds
from .tuned import interested, tuned_search


class Detector:
    """Finds anomalies in images by comparison with a gallery of normal images. Use in one thread at a time."""

    def __init__(
        self,
        gallery: Gallery,
        backbone: Backbone | None = None,
        search: SearchSettings | None = None,
        threshold: float | None = None,
        *,
        false_alarms: float | None = None,
        calibrated: bool | Stored = True,
        device: torch.device | str | None = None,
        kernel: str | None = None,
        map_memory: int | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        """Prepare to search a gallery.

        Args:
            gallery: open, and open for as long as the detector is used.
            backbone: that the gallery was built with, or one of more levels; without one only features are searched.
            search: by default the gallery's tuned settings (see `tuned_search`), or `SearchSettings()`.
            threshold: on the image score, in place of the calibrated one.
            false_alarms: share of normal images that may be called anomalous, in (0, 1); by default as calibrated.
            calibrated: whether to use the gallery's calibration, or another in its place (see `at_once`); without one
                there are no p-values, and what neighbours themselves score is not taken into account.
            device: of the pixel search; by default the backbone's, or the CPU.
            kernel: backend of the pixel search (see `choose_kernel`).
            map_memory: bytes of normal images' maps that stay in memory on the device; by default 64 MiB, or half
                of a GPU's free memory. The maps of one query always fit.
            elsewhere: where maps and the index are searched, such as the workers of a cluster; None: here.

        Raises:
            SettingsMismatch: not the gallery's backbone; TypeError: no backbone; GalleryError: the gallery is empty.
            InputError: `maps="auto"` has no threshold, the levels or their weights do not fit, what the
                neighbours themselves score is taken and not known, or there is no such kernel.
        """
        if threshold is not None and not math.isfinite(threshold):
            raise InputError(f"the threshold must be a finite number, not {threshold}")
        require_parts(gallery, backbone, search, device, map_memory)
        self.search = interested(gallery, search or tuned_search(gallery))
        if backbone is not None:
            backbone = backbone.limited_to(gallery.settings.levels)
            gallery.settings.require_equal(backbone.settings, str(gallery.path))
        if not len(gallery):
            raise GalleryError(f"{gallery.path}: the gallery is empty: add normal images first")
        self.gallery, self.backbone, self.images = gallery, backbone, images_of(gallery, elsewhere)
        self.device = torch.device(device or (backbone.device if backbone else "cpu"))
        try:
            self.kernel = choose_kernel(self.device, kernel)
        except ValueError as error:
            raise InputError(str(error)) from error
        self.comparison = Comparison(gallery, self.search)
        self._places = Places(gallery, self.images) if self.search.same_place else None
        self.scales = scales_of(gallery, self.search, self.images)
        self.interest = interest_of(gallery, self.comparison, self.search)
        how = (gallery, self.search, self.comparison)
        self.pixel_search: PixelSearcher = (
            PixelSearch(*how, self.kernel, self.device, map_memory, self.interest)
            if elsewhere is None
            else elsewhere.pixel_search(*how, self.device, self.interest)
        )
        known = find_thresholds(gallery, self.search, false_alarms, calibrated)
        self.calibrated_on, self.false_alarms = known.snapshot, known.false_alarms
        self.normal_scores, self.pixel_threshold = known.normal_scores, known.of_pixel
        self._by_neighbours = ByNeighbours(self.search, known.normal_scores)
        self.units = Units(self.search.whole_weight) if self.normal_scores is None else self.normal_scores.units
        self.thresholds: dict[ImageScore, float] = dict(known.of_image)
        self.kind: ImageScore = self.search.effective_image_score
        if threshold is not None:
            self.thresholds[self.kind] = threshold
        self.known = None if backbone is None else known_defects_of(gallery)  # what regions are compared with
        self.require_answerable(Question())

    def detect(self, images: Sequence[DecodedImage]) -> list[Detection]:
        """Return the detections of images, in their order; of tiles, each by itself. Raises as `features`."""
        return self.detect_features(*self.features(images), places=[image.geometry for image in images])

    def features(self, images: Sequence[DecodedImage]) -> tuple[np.ndarray, list[Tensor]]:
        """Return descriptors, float32 [B, D], and levels [B, H*W, C], of images.

        Raises ValueError without a backbone or for an image not cut into the gallery's tiles, TypeError for what is no
        image, and as `require_countable`.
        """
        if self.backbone is None:
            raise ValueError("this detector has no backbone")
        require_images(images)
        if self.gallery.settings.preprocessing.tile and not all(image.tile for image in images):
            raise ValueError("the gallery's pictures are cut into tiles: load images with `load_parts`")
        require_countable(self.gallery, self.interest, images)
        found = self.backbone(np.stack([image.pixels for image in images]))
        return found.pooled.cpu().numpy(), found.pyramid

    def detect_features(
        self,
        pooled: np.ndarray,
        pyramid: list[Tensor],
        without: Collection[int] = (),
        places: Sequence[Geometry] | None = None,
    ) -> list[Detection]:
        """Return the detections of features. Raises ValueError for levels that do not fit or are not finite.

        Args:
            pooled: float32 [B, D].
            pyramid: levels [B, H*W, C], the finest first.
            without: keys of images that are not searched: the query itself, where it is in the gallery.
            places: of the queries in their pictures; needed for tiles, and for crops within a region of interest.
        """
        require_features(self.gallery.settings, pooled, pyramid)
        nearest = self.nearest_images(pooled, without, places=places)
        judged = dict(self.judge(nearest, pyramid, [Question()] * len(nearest), places))
        return [judged[query] for query in range(len(nearest))]

    def judge(
        self,
        nearest: list[list[Neighbour]],
        pyramid: list[Tensor],
        questions: Sequence[Question],
        places: Sequence[Geometry] | None = None,
    ) -> Iterator[tuple[int, Detection]]:
        """Yield the number and detection of each query as soon as it is known; those without a score map come first."""
        scores = [self.pooled_score(neighbours) for neighbours in nearest]
        whole = [False] * len(scores) if places is None else [place.whole for place in places]
        with_map = []
        for query, (score, question) in enumerate(zip(scores, questions, strict=True)):
            if self._wants_map(score * self.units.of("pooled", whole[query]), question):
                with_map.append(query)
            else:
                yield query, self._detection(question, nearest[query], score, None, whole[query])
        if len(with_map) < len(scores):
            pyramid = [level[with_map] for level in pyramid]
        there = None if places is None else [places[query] for query in with_map]
        found = self.nearest_pixels(pyramid, [nearest[query] for query in with_map], there)
        for query, pixels in zip(with_map, found, strict=True):
            yield query, self._detection(questions[query], nearest[query], scores[query], pixels, whole[query])

    def nearest_images(
        self,
        pooled: np.ndarray,
        without: Collection[int] = (),
        beyond: float | None = None,
        places: Sequence[Geometry] | None = None,
    ) -> list[list[Neighbour]]:
        """Image level: find the nearest normal images of each descriptor, as many as either level needs.

        Args:
            pooled: float32 [B, D].
            without: keys of images that are left out.
            beyond: squared distance up to which images are left out with them, as near-duplicates, unless none
                would remain.
            places: of the queries in their pictures; needed where only tiles at the same place are searched.
        """
        wanted = max(self.search.score_neighbours, self.search.gallery_neighbours)
        more = wanted if beyond is None else 2 * wanted
        if self.scales is not None:
            nearest = self.scales.nearest(pooled, more, without, places, self._places)
        elif self._places is None:
            nearest = nearest_besides(self.images, pooled, more, without)
        else:
            nearest = self._places.nearest(pooled, more, without, places)
        return [others(neighbours, without, beyond)[:wanted] for neighbours in nearest]

    def pooled_score(self, neighbours: list[Neighbour]) -> float:
        """Return the mean squared distance to the `score_neighbours` nearest images."""
        return pooled_score(neighbours[: self.search.score_neighbours])

    def nearest_pixels(
        self, pyramid: list[Tensor], nearest: list[list[Neighbour]], places: Sequence[Geometry] | None = None
    ) -> Iterator[PixelDetection]:
        """Pixel level: find each query pixel's nearest among the pixels of the `gallery_neighbours` nearest images.

        Args:
            pyramid: levels [B, H*W, C], the finest first.
            nearest: of each query, as `nearest_images` found them.
            places: of the queries in their pictures; needed for tiles, and for crops within a region of interest.
        """
        size, most, how = self.comparison.size, self.search.gallery_neighbours, self.gallery.settings.preprocessing
        candidates = [neighbours[:most] for neighbours in nearest]
        for found in self.search_pixels(self.comparison.prepare(pyramid), candidates, places):
            near = [candidates[query] for query in found.queries]
            there = [None if places is None else places[query] for query in found.queries]
            means = self._by_neighbours.subtracted(found.distances.mean(2), near, there)  # [B, P]
            arrays = (values.cpu().numpy() for values in (found.distances, found.matches, means))
            parts = [own_slices(place, how.input_size, how) for place in there]
            counted = found.counted(size, how.input_size)
            samples: Sequence[Sample | None] = [None] * len(near)
            if self.known is not None:
                samples = self.known.samples(pyramid, found.queries, means, size, found.cells)
            divisors = self._by_neighbours.divisors(near, there)
            maps = self.score_maps(means, found.cells)
            mapped = zip(maps, *arrays, near, divisors, parts, counted, samples, strict=True)
            for score_map, distances, matches, mean, neighbours, divisor, part, (cells, inside), sample in mapped:
                score = map_score(score_map[part], self.search.top_share, None if inside is None else inside[part])
                score /= divisor
                yield PixelDetection(
                    score_map, distances, matches, mean, size, neighbours, score, part, cells, inside, sample
                )

    def search_pixels(
        self,
        prepared: list[Tensor],
        candidates: list[list[Neighbour]],
        places: Sequence[Geometry] | None = None,
    ) -> Iterator[Found]:
        """Yield the nearest pixels, among the candidates' (see `nearest_pixels`), of prepared levels [B, H*W, C]."""
        return self.pixel_search.nearest(prepared, candidates, places)

    def score_maps(self, distances: Tensor, cells: Tensor | None = None) -> np.ndarray:
        """Return score maps, float32 [B, H, W] of the backbone's input size, of mean squared distances [B, P].

        `cells`, bool [B, P], are those that count in a region of interest; None: all.
        """
        size, shown = self.comparison.size, self.gallery.settings.preprocessing.input_size
        return score_maps(distances, size, shown, self.search.smoothing, cells)

    def require_answerable(self, question: Question) -> None:
        """Raise InputError if `auto` has no threshold, or if the image score needs a map that is not computed."""
        maps, path = question.maps or self.search.maps, self.gallery.path
        interested(self.gallery, replace(self.search, maps=maps, image_score=None))
        if maps == "auto" and question.threshold is None and "pooled" not in self.thresholds:
            raise InputError(
                f"{path}: maps `auto` needs a threshold for these search settings: "
                f"run `{calibrate_command(self.gallery, self.search)}`, or give one"
            )
        if maps != "always" and self.search.image_score not in (None, "pooled"):
            raise InputError(f"image score `{self.search.image_score}` needs every image's score map: ask for `always`")

    def _wants_map(self, score: float, question: Question) -> bool:
        maps = question.maps or self.search.maps
        if maps == "auto":
            threshold = question.threshold
            return score > (self.thresholds["pooled"] if threshold is None else threshold)
        return maps == "always"

    def _detection(
        self, question: Question, neighbours: list[Neighbour], score: float, pixels: PixelDetection | None, whole: bool
    ) -> Detection:
        scores: dict[ImageScore, float] = {"pooled": score}
        if pixels is not None:
            scores, pixels = image_scores(score, pixels.score), self.units.scaled(pixels, whole)
        scores = {kind: value * self.units.of(kind, whole) for kind, value in scores.items()}
        kind = self.search.image_score_for(question.maps or self.search.maps)
        return Detection(
            self.gallery.snapshot,
            kind,
            scores,
            neighbours[: self.search.score_neighbours],
            self.thresholds.get(kind) if question.threshold is None else question.threshold,
            pixels,
            None if self.normal_scores is None else self.normal_scores.p_value(kind, scores[kind]),
            self.pixel_threshold,
            self.known,
        )
