"""Try a way of comparing on a sample: how well do its scores tell copies with a defect from plain images?"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spade_index.gallery.reader import Gallery
from spade_index.settings import ImageScore, SearchSettings

from .by_neighbours import plain_search
from .calibration import can_calibrate, near_distance
from .comparison import compared_sizes
from .detector import Detector
from .metrics import roc_auc
from .planned import seconds_of_search
from .quiet_clock import QuietClock
from .scales import scales_of
from .scores import counted_mean, divisors, enlarged, score_maps
from .siblings import nearest_besides, others, own_slices, place_of_row, siblings
from .synthetic import QUIET, Sample

REFERENCE = 224  # longer edge of the input, in pixels, that SIGMAS are given for
SIGMAS = (1.0, 2.0, 4.0, 8.0)  # of the smoothing
TOP_SHARES = (0.0, 0.003, 0.01, 0.03)
SUBTRACTED = (0.0, 0.5, 1.0)
MAPPED: tuple[ImageScore, ...] = ("map", "both")
MOST = 50  # neighbours that are tried at most
OWN = 10  # images of the sample whose own maps are subtracted
EVERY = 21  # of the normal pixels, one in so many counts for the pixel ROC AUC: the others are like it
OF_A_QUERY = 0.015  # seconds that its scores are planned to take, of all that are tried
RESAMPLES = 200  # of the images, for the standard error of a difference
PIXEL_WEIGHT = 1 / 3  # of the pixel ROC AUC in the quality; the rest is the image ROC AUC


@dataclass(frozen=True)
class Trial:
    """How well one set of search settings did on a sample, and how long a search took."""

    search: SearchSettings
    image_roc_auc: float
    pixel_roc_auc: float
    ms: float  # of one search, without the backbone
    planned_ms: float  # the same, as planned: what is chosen does not depend on the machine
    wins: np.ndarray  # float64 [n, n]: of the copies of image o over plain image i; a tie counts half

    @property
    def quality(self) -> float:
        """The figure that is compared, 0..1: by synthetic defects, so not an expected accuracy."""
        return (1 - PIXEL_WEIGHT) * self.image_roc_auc + PIXEL_WEIGHT * self.pixel_roc_auc

    def row(self) -> dict[str, Any]:
        """Return the trial in values for JSON; of the search settings, those that differ from the defaults."""
        figures = {"image_roc_auc": self.image_roc_auc, "pixel_roc_auc": self.pixel_roc_auc, "ms": self.ms}
        return {"search": changed(self.search), **figures}


class Trials:
    """Tries ways of comparing on one sample of a gallery.

    A query is a plain image, searched for without itself, or a copy, searched for without the image that it was made
    of; near-duplicates of these are left out, too, and the other tiles of their pictures.
    """

    def __init__(self, gallery: Gallery, sample: Sample, **options: Any) -> None:
        """Find the neighbours of the sample's images.

        Args:
            gallery: that the sample was drawn from.
            sample: plain images and copies.
            options: device, kernel and map_memory, as for `Detector`.
        """
        self._gallery, self._sample, self._options = gallery, sample, options
        self._known = can_calibrate(gallery)  # whether what the neighbours themselves score will be
        pooled = gallery.pooled(sample.plain)
        queries = np.concatenate([pooled, sample.pooled])  # [n + m, D]
        self._owners = np.concatenate([np.arange(len(pooled)), sample.owner])
        near = near_distance(gallery)
        own = [{sibling.key for sibling in siblings(gallery, row)} for row in sample.plain]
        if (scales := scales_of(gallery)) is None:
            found = gallery.nearest(queries, 2 * MOST + max(map(len, own)))
        else:  # the sample is of tiles
            own = [of | scales.keys for of in own]
            both = zip(queries, self._owners, strict=True)
            found = [nearest_besides(gallery, query[None], 2 * MOST, own[owner])[0] for query, owner in both]
        self._neighbours = [
            others(of_query, own[owner], near) for of_query, owner in zip(found, self._owners, strict=True)
        ]
        distances = (pooled.astype(np.float64) ** 2).sum(1) - 2 * queries.astype(np.float64) @ pooled.T  # [n + m, n]
        distances[np.arange(len(queries)), self._owners] = np.inf
        self._own = distances.argsort(1)[:, : min(OWN, len(pooled) - 1)]  # rows of plain images
        self._lit = np.concatenate([np.zeros((len(pooled), *sample.masks.shape[1:]), bool), sample.masks])
        self._counted = self._lit.copy()
        self._counted.reshape(-1)[::EVERY] = True

    def _counting(self, detector: Detector) -> tuple[Tensor | None, np.ndarray | None]:
        """Return the cells, bool [n + m, P], and the pixels, bool [n + m, h, w], that count; None where all do.

        Pixels that another tile of the picture sees better do not count.
        """
        how, size = self._gallery.settings.preprocessing, self._lit.shape[1:]
        if how.tile is None and detector.interest is None:
            return None, None
        places = [place_of_row(self._gallery, row) for row in self._sample.plain]
        counts = np.zeros((len(places), *size), bool)
        for image, place in enumerate(places):
            counts[image][own_slices(place, size, how)] = True
        if detector.interest is None:
            return None, counts[self._owners]
        cells = torch.from_numpy(np.stack([detector.interest.cells(place) for place in places]))
        counts &= enlarged(cells, detector.comparison.size, size)
        return cells[torch.from_numpy(self._owners)], counts[self._owners]

    def run(self, search: SearchSettings) -> list[Trial]:
        """Search with these settings; try each smoothing, map score and share to subtract on the distances found."""
        detector = Detector(self._gallery, search=plain_search(search), calibrated=False, **self._options)
        distances, ms = self._distances(detector)
        planned_ms = self.planned_ms(search)
        cells, counts = self._counting(detector)
        count = len(self._sample.plain)
        mapped_scores = MAPPED if detector.interest is None else ("map",)
        pixels = self._counted if counts is None else self._counted & counts
        pooled = np.array([detector.pooled_score(neighbours) for neighbours in self._neighbours])
        trials = []
        for subtracted in SUBTRACTED if self._known else (0.0,):
            left = distances - subtracted * self._mean_of_others(distances)
            for sigma in SIGMAS:
                maps = self._maps(left, detector, sigma, cells)
                pixel_roc_auc = roc_auc(self._lit[pixels], maps[pixels])
                smoothing = sigma * max(self._gallery.settings.preprocessing.input_size) / REFERENCE
                for top_share, absolute in _map_scores(maps, counts):
                    of_maps = {False: absolute}
                    if self._known:
                        of_maps[True] = absolute / divisors(absolute[self._own].mean(1), absolute[:count].mean())
                    for (relative, scores), mapped in product(of_maps.items(), mapped_scores):
                        chosen = replace(
                            search,
                            subtract_neighbours=subtracted,
                            relative_score=relative,
                            smoothing=smoothing,
                            top_share=top_share,
                            mapped_score=mapped,
                        )
                        final = scores if mapped == "map" else pooled * scores.clip(min=0)
                        wins, auc = compared(final[:count], final[count:], self._sample.owner)
                        trials.append(Trial(chosen, auc, pixel_roc_auc, ms, planned_ms, wins))
        return trials

    def _mean_of_others(self, distances: np.ndarray) -> np.ndarray:
        """Return the mean of the distances [n + m, P] of the images that are nearest to each."""
        near = distances[self._own]
        return near.mean(1) if self._gallery.region_rule is None else counted_mean(near, 1)

    def planned_ms(self, search: SearchSettings) -> float:
        """Return the milliseconds that a search with these settings is planned to take."""
        sizes, shapes = compared_sizes(self._gallery, search), self._gallery.settings.level_shapes
        channels = [shapes[level][0] for level in search.compared_levels or range(len(shapes))]
        return 1e3 * seconds_of_search(sizes, channels, search.gallery_neighbours, search.window)

    def planned_seconds(self, search: SearchSettings) -> float:
        """Return the seconds that `run` is planned to take."""
        return len(self._neighbours) * (OF_A_QUERY + self.planned_ms(search) / 1e3)

    def grid(self, search: SearchSettings) -> tuple[int, int]:
        """Return the grid (H, W) that search settings compare on."""
        return compared_sizes(self._gallery, search)[0]

    def _distances(self, detector: Detector) -> tuple[np.ndarray, float]:
        """Return mean distances float32 [n + m, P] of all queries, and the milliseconds of a search.

        An image and its copies, which have the same neighbours but for a few, are searched for together.
        """
        height, width = detector.comparison.size
        found = np.empty((len(self._neighbours), height * width), np.float32)
        seconds = []
        for image in range(len(self._sample.plain)):
            queries = np.flatnonzero(self._owners == image)
            found[queries], took = self._means(detector, image, queries)
            seconds.append(took / len(queries))
        return found, 1e3 * float(np.quantile(seconds, QUIET))

    def _means(self, detector: Detector, image: int, queries: np.ndarray) -> tuple[np.ndarray, float]:
        """Search for an image and its copies; return mean distances float32 [B, P], and the seconds it took."""
        candidates = [self._neighbours[query][: detector.search.gallery_neighbours] for query in queries]
        pyramid = self._pyramid(image)
        clock = QuietClock()
        places = [place_of_row(self._gallery, self._sample.plain[image])] * len(queries)
        searched = detector.search_pixels(detector.comparison.prepare(pyramid), candidates, places)
        means = [pixels.distances.mean(2).cpu().numpy() for pixels in searched]
        return np.concatenate(means), clock.seconds()

    def _pyramid(self, image: int) -> list[Tensor]:
        """Return all levels of a plain image and its copies, float32 [B, H*W, C]; no points of one not stored."""
        copies = np.flatnonzero(self._sample.owner == image)
        levels = zip(self.plain(image), self._sample.pyramid, strict=True)
        return [torch.cat([plain, drawn[copies][:, : plain.shape[1]]]).float() for plain, drawn in levels]

    def plain(self, image: int) -> list[Tensor]:
        """Return all levels of a plain image, float16 [1, H*W, C]."""
        return [torch.from_numpy(level) for level in self._gallery.maps([self._sample.plain[image].key])]

    def _maps(self, distances: np.ndarray, detector: Detector, sigma: float, cells: Tensor | None) -> np.ndarray:
        """Return score maps of the masks' size, float32 [n + m, h, w]."""
        height, width = self._lit.shape[1:]
        smoothing = sigma * max(height, width) / REFERENCE
        return score_maps(torch.from_numpy(distances), detector.comparison.size, (height, width), smoothing, cells)


def compared(plain: np.ndarray, copies: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, float]:
    """Return how often the copies of each image score higher than each plain one, and the image ROC AUC.

    Args:
        plain: scores [n] of plain images.
        copies: scores [m] of copies.
        owner: int64 [m], the plain image of each copy.
    """
    over = (copies[None] > plain[:, None]) + 0.5 * (copies[None] == plain[:, None])  # [n, m]
    wins = np.zeros((len(plain), len(plain)))
    np.add.at(wins.T, owner, over.T)
    return wins, float(over.mean())


def deviation(difference: np.ndarray, owner: np.ndarray) -> float:
    """Return the standard error of a difference of image ROC AUC, of a difference of wins float64 [n, n].

    Images are drawn again with their copies, whose plain images are `owner`, int64 [m].
    """
    count = len(difference)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)  # [resamples, n]
    copies = drawn @ np.bincount(owner, minlength=count)  # [resamples]; 0 where none of the drawn images has one
    found = np.einsum("ri,io,ro->r", drawn, difference, drawn)[copies > 0] / (count * copies[copies > 0])
    return float(found.std())


def changed(search: SearchSettings) -> dict[str, Any]:
    """Return the search settings that are not the defaults, in values for JSON."""
    defaults = asdict(SearchSettings())
    return {name: value for name, value in asdict(search).items() if value != defaults[name]}


def _map_scores(maps: np.ndarray, counts: np.ndarray | None) -> Iterator[tuple[float, np.ndarray]]:
    """Yield each share and the mean of that highest share of each map [n, h, w], of what counts: float64 [n]."""
    values = (maps if counts is None else np.where(counts, maps, -np.inf)).reshape(len(maps), -1)
    numbers = np.full(len(maps), values.shape[1]) if counts is None else counts.sum((1, 2))
    most = max(1, round(max(TOP_SHARES) * values.shape[1]))
    highest = -np.sort(-np.partition(values, values.shape[1] - most, axis=1)[:, -most:], axis=1)
    sums = highest.cumsum(1, dtype=np.float64)
    for share in TOP_SHARES:
        many = np.maximum(1, np.round(share * numbers)).astype(np.int64)
        yield share, sums[np.arange(len(sums)), many - 1] / many
