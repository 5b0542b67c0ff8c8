"""Scorings: what tuning tries to make scores of the distances that were found, without another search.

The share of the neighbours' own maps that is subtracted, the smoothing, the share of the map that counts, the map score
over those of the neighbours, and its product with the pooled score.
"""

import math
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
TOP_SHARES = (0.003, 0.01, 0.03)  # without the maximum: pasted defects are small and sharp, and would choose it
SUBTRACTED = (0.0, 0.5, 1.0)
MAPPED: tuple[ImageScore, ...] = ("map", "both")
AT_ONCE = 256  # queries whose score maps are in memory
EVERY = 21  # of the normal pixels, one in so many counts for the pixel ROC AUC: the others are like it
MOST_PIXELS = 1 << 20  # normal pixels that count, at most


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
    shown = _Shown(detector, searched)
    mapped_scores = MAPPED if detector.interest is None else ("map",)
    scale = max(detector.gallery.settings.preprocessing.input_size) / REFERENCE
    for subtracted, sigma in product(SUBTRACTED if known else (0.0,), SIGMAS):
        pixel_roc_auc, map_scores = shown.figures(searched.distances - subtracted * shown.of_others, sigma)
        for top_share, absolute in zip(TOP_SHARES, map_scores, strict=True):
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


class _Shown:
    """Score maps of what was found, of the masks' size, some at a time: a picture may have a thousand tiles."""

    def __init__(self, detector: Detector, searched: Searched) -> None:
        self._detector, self._searched = detector, searched
        height, width = searched.masks.shape[1:]
        self._size = height, width
        pixels = len(searched.distances) * math.prod(self._size)
        self._every = EVERY * (math.ceil(pixels / (EVERY * MOST_PIXELS)) | 1)  # odd: else in one column of each map
        cells = None if detector.interest is None else map(detector.interest.cells, searched.places)
        self._cells = None if cells is None else torch.from_numpy(np.stack([*cells]))  # bool [n + m, P]
        mean = np.mean if detector.gallery.region_rule is None else counted_mean
        self.of_others = np.stack([mean(searched.distances[rows], 0) for rows in searched.near])  # [n + m, P]

    def figures(self, distances: np.ndarray, sigma: float) -> tuple[float, np.ndarray]:
        """Return what the score maps of distances float32 [n + m, P] are worth; sigma is for the reference size.

        Returns:
            How well they tell defects from other pixels, and the mean of each of TOP_SHARES of each map, of what
            counts: float64 [shares, n + m].
        """
        lit, values, means = list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
        for start in range(0, len(distances), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            cells, counts = self._counting(some)
            maps = self._maps(distances[some], sigma, cells)
            pixels, defective = self._pixels(start, len(maps), counts)
            lit.append(defective[pixels])
            values.append(maps[pixels])
            means.append(_means_of_highest(maps, counts))
        return roc_auc(np.concatenate(lit), np.concatenate(values)), np.concatenate(means, 1)

    def _maps(self, distances: np.ndarray, sigma: float, cells: Tensor | None) -> np.ndarray:
        smoothing = sigma * max(self._size) / REFERENCE
        return score_maps(torch.from_numpy(distances), self._detector.comparison.size, self._size, smoothing, cells)

    def _pixels(self, start: int, many: int, counts: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixels that are compared, and the defective ones, bool [many, h, w], from query `start` on."""
        plain = self._searched.plain
        defective = np.zeros((many, *self._size), bool)
        of_copies = self._searched.masks[max(0, start - plain) : max(0, start + many - plain)]
        defective[many - len(of_copies) :] = of_copies
        pixels = defective.copy()
        pixels.reshape(-1)[-start * math.prod(self._size) % self._every :: self._every] = True
        return (pixels if counts is None else pixels & counts), defective

    def _counting(self, some: slice) -> tuple[Tensor | None, np.ndarray | None]:
        """Return the cells, bool [q, P], and the pixels, bool [q, h, w], of some queries that count; None: all do.

        Pixels that another tile of the picture sees better do not count.
        """
        how, places = self._detector.gallery.settings.preprocessing, self._searched.places[some]
        if how.tile is None and self._cells is None:
            return None, None
        counts = np.zeros((len(places), *self._size), bool)
        for query, place in enumerate(places):
            counts[query][own_slices(place, self._size, how)] = True
        if self._cells is None:
            return None, counts
        cells = self._cells[some]
        return cells, counts & enlarged(cells, self._detector.comparison.size, self._size)


def _means_of_highest(maps: np.ndarray, counts: np.ndarray | None) -> np.ndarray:
    """Return the mean of each of TOP_SHARES of each map, of what counts: float64 [shares, q]."""
    values = (maps if counts is None else np.where(counts, maps, -np.inf)).reshape(len(maps), -1)
    numbers = np.full(len(maps), values.shape[1]) if counts is None else counts.sum((1, 2))
    most = max(1, round(max(TOP_SHARES) * values.shape[1]))
    highest = -np.sort(-np.partition(values, values.shape[1] - most, axis=1)[:, -most:], axis=1)
    sums = highest.cumsum(1, dtype=np.float64)
    many = [np.maximum(1, np.round(share * numbers)).astype(np.int64) for share in TOP_SHARES]
    return np.stack([sums[np.arange(len(sums)), of - 1] / of for of in many])
