"""Try a way of comparing on a sample: how well do its scores tell copies with a defect from plain images?"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from spade_index.gallery.compared import compared_levels
from spade_index.gallery.reader import Gallery
from spade_index.images.geometry import Geometry
from spade_index.settings import SearchSettings

from .alone import near_distance
from .as_new import maps_as_new
from .by_neighbours import plain_search
from .calibration import can_calibrate
from .comparison import compared_sizes
from .detector import Detector
from .pixel_search import images_of
from .planned import seconds_of_search
from .quiet_clock import QuietClock
from .scales import scales_of
from .scorings import Searched, scorings
from .siblings import nearest_besides, others, place_of_row, siblings
from .synthetic import QUIET, Sample
from .ways import usual_levels

MOST = 50  # neighbours that are tried at most
OWN = 10  # images of the sample whose own maps are subtracted
WEIGHED = 20  # plain images whose differences weigh the levels
LEAST_DIFFERENCE = 1e-3  # of the mean squared length of cells: images may be copies of each other
GRID, NEAR = 14, 10  # cells of the longer edge, at most, and neighbours, where they are taken
OF_A_QUERY = 0.008  # seconds that its scores are planned to take, of all that are tried
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


class Copies(NamedTuple):
    """What was found of the m copies of a sample."""

    distances: np.ndarray  # float32 [m, P], means, on the grid of comparison
    pooled: np.ndarray  # float64 [m], pooled scores
    neighbours: list[list[int]]  # keys of the images whose pixels were searched
    places: list[Geometry]  # in their pictures


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
            options: device, kernel, map_memory and elsewhere, as for `Detector`.
        """
        self._gallery, self._sample, self._options = gallery, sample, options
        self._known = can_calibrate(gallery)  # whether what the neighbours themselves score will be
        self.levels = usual_levels(gallery)  # that are compared where no others are clearly better
        self._differences: dict[tuple[str, int], float] = {}  # by scaling and level
        pooled = gallery.pooled(sample.plain)
        queries = np.concatenate([pooled, sample.pooled])  # [n + m, D]
        self._owners = np.concatenate([np.arange(len(pooled)), sample.owner])
        near = near_distance(gallery)
        own = [{sibling.key for sibling in siblings(gallery, row)} for row in sample.plain]
        images = images_of(gallery, options.get("elsewhere"))
        if (scales := scales_of(gallery)) is None:
            found = images.nearest(queries, 2 * MOST + max(map(len, own)))
        else:  # the sample is of tiles
            own = [of | scales.keys for of in own]
            both = zip(queries, self._owners, strict=True)
            found = [nearest_besides(images, query[None], 2 * MOST, own[owner])[0] for query, owner in both]
        self._neighbours = [
            others(of_query, own[owner], near) for of_query, owner in zip(found, self._owners, strict=True)
        ]
        distances = (pooled.astype(np.float64) ** 2).sum(1) - 2 * queries.astype(np.float64) @ pooled.T  # [n + m, n]
        distances[np.arange(len(queries)), self._owners] = np.inf
        self._own = distances.argsort(1)[:, : min(OWN, len(pooled) - 1)]  # rows of plain images
        places = [place_of_row(gallery, row) for row in sample.plain]
        self._places = [places[owner] for owner in self._owners]

    def run(self, search: SearchSettings) -> list[Trial]:
        """Search with these settings, but for the levels' weights; try each scoring of the distances found."""
        search = self.weighed(search)
        detector = self.detector(search)
        distances, ms = self._distances(detector)
        planned_ms, count = self.planned_ms(search), len(self._sample.plain)
        pooled = np.array([detector.pooled_score(neighbours) for neighbours in self._neighbours])
        searched = Searched(distances, pooled, self._own, self._sample.masks, self._places)
        trials = []
        for scoring in scorings(detector, search, searched, self._known):
            wins, auc = compared(scoring.scores[:count], scoring.scores[count:], self._sample.owner)
            trials.append(Trial(scoring.search, auc, scoring.pixel_roc_auc, ms, planned_ms, wins))
        return trials

    def weighed(self, search: SearchSettings) -> SearchSettings:
        """Return settings in which each level weighs the inverse of what it differs by between good images.

        So a level counts by how well the neighbours predict it: where products lie alike, the fine levels do, and noise
        of the coarse ones does not hide what they show.
        """
        weights = [1.0] * len(self._gallery.settings.levels)
        for level in self._gallery.stored_levels:
            weights[level] = float(f"{1 / self._difference(search.scaling, level):.4g}")
        return replace(search, level_weights=tuple(weights))

    def _difference(self, scaling: str, level: int) -> float:
        """Return the squared distance of cells of plain images in a level to the nearest of their neighbours', > 0."""
        if (scaling, level) not in self._differences:
            how = SearchSettings(
                scaling=scaling, compared_levels=(level,), level_weights="equal", grid=GRID, gallery_neighbours=NEAR
            )
            detector = self.detector(how)
            images = np.linspace(0, len(self._sample.plain) - 1, WEIGHED).round().astype(int)
            (cells,) = detector.comparison.prepare(self._pyramid(images[0], images[:1]))  # [1, P, C]
            least = LEAST_DIFFERENCE * float(cells.square().sum(-1).mean())
            found = [self._means(detector, image, np.array([image]))[0] for image in images]
            means = [distances[distances > 0].mean() for distances in found if distances.any()]  # others do not count
            self._differences[scaling, level] = max(float(np.median(means or [0.0])), least) or 1.0
        return self._differences[scaling, level]

    def detector(self, search: SearchSettings) -> Detector:
        """Return a detector that searches so, whatever the neighbours themselves score."""
        return Detector(self._gallery, search=plain_search(search), calibrated=False, **self._options)

    def copies(self, detector: Detector) -> Copies:
        """Search for the copies alone."""
        count = len(self._sample.plain)
        distances = np.empty((len(self._sample.owner), math.prod(detector.comparison.size)), np.float32)
        for image in np.unique(self._sample.owner):
            copies = np.flatnonzero(self._sample.owner == image)
            distances[copies], _ = self._means(detector, image, count + copies)
        near = self._neighbours[count:]
        return Copies(
            distances,
            np.array([detector.pooled_score(neighbours) for neighbours in near]),
            [[neighbour.key for neighbour in of[: detector.search.gallery_neighbours]] for of in near],
            self._places[count:],
        )

    def planned_ms(self, search: SearchSettings) -> float:
        """Return the milliseconds that a search with these settings is planned to take."""
        return planned_ms(self._gallery, search)

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
        found = np.empty((len(self._neighbours), math.prod(detector.comparison.size)), np.float32)
        seconds = []
        for image in range(len(self._sample.plain)):
            queries = np.flatnonzero(self._owners == image)
            found[queries], took = self._means(detector, image, queries)
            seconds.append(took / len(queries))
        return found, 1e3 * float(np.quantile(seconds, QUIET))

    def _means(self, detector: Detector, image: int, queries: np.ndarray) -> tuple[np.ndarray, float]:
        """Search for some of an image and its copies; return mean distances float32 [B, P], and the seconds it took."""
        candidates = [self._neighbours[query][: detector.search.gallery_neighbours] for query in queries]
        pyramid = self._pyramid(image, queries)
        clock = QuietClock()
        places = [self._places[image]] * len(queries)
        searched = detector.search_pixels(detector.comparison.prepare(pyramid), candidates, places)
        means = [pixels.distances.mean(2).cpu().numpy() for pixels in searched]
        return np.concatenate(means), clock.seconds()

    def _pyramid(self, image: int, queries: np.ndarray) -> list[Tensor]:
        """Return all levels of some of a plain image and its copies, float32 [B, H*W, C]; no points not stored."""
        count = len(self._sample.plain)
        copies = queries[queries >= count] - count
        levels = zip(self.plain(image), self._sample.pyramid, strict=True)
        some = slice(0, len(queries) - len(copies))  # the plain image comes first, if it is among them
        return [torch.cat([plain[some], drawn[copies][:, : plain.shape[1]]]).float() for plain, drawn in levels]

    def plain(self, image: int) -> list[Tensor]:
        """Return all levels of a plain image, float32 [1, H*W, C]."""
        return maps_as_new(self._gallery, [self._sample.plain[image]])


def planned_ms(gallery: Gallery, search: SearchSettings) -> float:
    """Return the milliseconds that a search of a gallery with these settings is planned to take."""
    sizes, shapes = compared_sizes(gallery, search), gallery.settings.level_shapes
    channels = [shapes[level][0] for level in compared_levels(gallery.settings, search)]
    return 1e3 * seconds_of_search(sizes, channels, search.gallery_neighbours, search.window)


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
