"""Scorings: what tuning tries to make scores of the distances that were found, without another search.

The share of the neighbours' own maps that is subtracted, the smoothing, the share of the map that counts, the map score
over those of the neighbours, and its product with the pooled score.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from torch import Tensor

from spade_index.images.geometry import Geometry
from spade_index.settings import ImageScore, SearchSettings

from .detector import Detector
from .metrics import roc_auc
from .scores import counted_mean, divisors, enlarged, score_maps
from .siblings import own_slices

REFERENCE = 224  # longer edge of the input, in pixels, that SIGMAS are given for
SIGMAS = (1.0, 2.0, 4.0, 8.0)  # of the smoothing
TOP_SHARES = (0.0, 0.003, 0.01, 0.03)
SUBTRACTED = (0.0, 0.5, 1.0)
MAPPED: tuple[ImageScore, ...] = ("map", "both")
EVERY = 21  # of the normal pixels, one in so many counts for the pixel ROC AUC: the others are like it


@dataclass(frozen=True)
class Searched:
    """What was found of n plain images and m copies of some of them: n + m queries, the plain images first."""

    distances: np.ndarray  # float32 [n + m, P], means, on the grid of comparison
    pooled: np.ndarray  # float64 [n + m], pooled scores
    near: Sequence[np.ndarray]  # of each query, rows of the plain images whose own maps and scores are its neighbours'
    masks: np.ndarray  # bool [m, h, w], True on the defects of the copies
    places: Sequence[Geometry]  # of the n + m queries in their pictures

    @property
    def plain(self) -> int:
        """The number n of plain images."""
        return len(self.distances) - len(self.masks)


@dataclass(frozen=True)
class Scoring:
    """One way to make scores of distances, and the scores."""

    search: SearchSettings
    scores: np.ndarray  # float64 [n + m]
    pixel_roc_auc: float


def scorings(detector: Detector, search: SearchSettings, searched: Searched, known: bool) -> Iterator[Scoring]:
    """Yield every scoring of what was found.

    Args:
        detector: that searched.
        search: its settings; those of the scores are replaced.
        searched: what it found.
        known: whether what the neighbours themselves score can be taken.
    """
    counted = _Counted(detector, searched)
    mapped_scores = MAPPED if detector.interest is None else ("map",)
    scale = max(detector.gallery.settings.preprocessing.input_size) / REFERENCE
    for subtracted, sigma in product(SUBTRACTED if known else (0.0,), SIGMAS):
        maps = counted.maps(searched.distances - subtracted * counted.of_others, sigma)
        pixel_roc_auc = counted.pixel_roc_auc(maps)
        for top_share, absolute in counted.map_scores(maps):
            of_maps = {False: absolute}
            if known:
                means = np.array([absolute[rows].mean() for rows in searched.near])
                of_maps[True] = absolute / divisors(means, absolute[: searched.plain].mean())
            for (relative, scores), mapped in product(of_maps.items(), mapped_scores):
                chosen = replace(
                    search,
                    subtract_neighbours=subtracted,
                    relative_score=relative,
                    smoothing=sigma * scale,
                    top_share=top_share,
                    mapped_score=mapped,
                )
                final = scores if mapped == "map" else searched.pooled * scores.clip(min=0)
                yield Scoring(chosen, final, pixel_roc_auc)


class _Counted:
    """Score maps of what was found, of the masks' size, and what of them counts."""

    def __init__(self, detector: Detector, searched: Searched) -> None:
        self._size, self._grid = searched.masks.shape[1:], detector.comparison.size
        self._lit = np.concatenate([np.zeros((searched.plain, *self._size), bool), searched.masks])
        self._cells, self._counts = _counting(detector, searched.places, self._size)
        self._pixels = self._lit.copy()
        self._pixels.reshape(-1)[::EVERY] = True
        if self._counts is not None:
            self._pixels &= self._counts
        mean = np.mean if detector.gallery.region_rule is None else counted_mean
        self.of_others = np.stack([mean(searched.distances[rows], 0) for rows in searched.near])  # [n + m, P]

    def maps(self, distances: np.ndarray, sigma: float) -> np.ndarray:
        """Return score maps float32 [n + m, h, w]; sigma is for an input of the reference size."""
        smoothing = sigma * max(self._size) / REFERENCE
        height, width = self._size
        return score_maps(torch.from_numpy(distances), self._grid, (height, width), smoothing, self._cells)

    def pixel_roc_auc(self, maps: np.ndarray) -> float:
        """Return how well score maps tell defects from other pixels."""
        return roc_auc(self._lit[self._pixels], maps[self._pixels])

    def map_scores(self, maps: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
        """Yield each share and the mean of that highest share of each map, of what counts: float64 [n + m]."""
        values = (maps if self._counts is None else np.where(self._counts, maps, -np.inf)).reshape(len(maps), -1)
        numbers = np.full(len(maps), values.shape[1]) if self._counts is None else self._counts.sum((1, 2))
        most = max(1, round(max(TOP_SHARES) * values.shape[1]))
        highest = -np.sort(-np.partition(values, values.shape[1] - most, axis=1)[:, -most:], axis=1)
        sums = highest.cumsum(1, dtype=np.float64)
        for share in TOP_SHARES:
            many = np.maximum(1, np.round(share * numbers)).astype(np.int64)
            yield share, sums[np.arange(len(sums)), many - 1] / many


def _counting(
    detector: Detector, places: Sequence[Geometry], size: Sequence[int]
) -> tuple[Tensor | None, np.ndarray | None]:
    """Return the cells, bool [q, P], and the pixels, bool [q, h, w], of queries that count; None where all do.

    Pixels that another tile of the picture sees better do not count.
    """
    how = detector.gallery.settings.preprocessing
    if how.tile is None and detector.interest is None:
        return None, None
    counts = np.zeros((len(places), *size), bool)
    for query, place in enumerate(places):
        counts[query][own_slices(place, size, how)] = True
    if detector.interest is None:
        return None, counts
    cells = torch.from_numpy(np.stack([detector.interest.cells(place) for place in places]))
    return cells, counts & enlarged(cells, detector.comparison.size, size)
