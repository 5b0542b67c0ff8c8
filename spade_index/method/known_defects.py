"""Known defects: which of the defects that people named a region is most like.

A place is described by the vectors of all levels at its worst cell, as the backbone gave them. Two places are compared
by the coarsest level that is stored, which says best what a place shows: each channel is taken in deviations from its
mean over a sample of the gallery's images. Their distance is 1 less the cosine of the two vectors: 0 of the same, 1 of
places that have nothing in common, 2 of opposites.

A region is like the known defect at the least distance, unless that is farther than defects of that kind are from each
other: than the largest distance of one to the nearest in another image. A kind in fewer than ENOUGH images has the
limit FAR in its place.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import maximum_filter
from torch import Tensor

from spade_index.gallery.catalog.defects import KnownDefect
from spade_index.gallery.compared import levels_inside
from spade_index.gallery.reader import Gallery
from spade_index.images.tiles import Box
from spade_index.kernels.pyramid import Size, average

Place = tuple[float, float, float, float]  # x, y, width, height, in pixels of the original

SAMPLE = 16  # images of the gallery, for the channels' means and deviations
SMALLEST = 1e-6  # deviation of a channel, and length of a vector
MOST_CELLS = 64  # local maxima of an image whose features are kept until its regions are known
ENOUGH = 3  # images of a kind, from which on its own distances say how far is too far
FAR = 0.5  # else
BLOCK = 256  # defects whose distances to all others are in memory together


@dataclass(frozen=True)
class Sample:
    """Cells of one image with their features: its peaks, the highest first; then others, the highest first, too."""

    x: np.ndarray  # float64 [n], of the cell's centre: fraction of the input's width
    y: np.ndarray  # float64 [n]
    heights: np.ndarray  # float32 [n], the mean distances by which they are ranked
    features: np.ndarray  # float16 [n, D]
    cell: tuple[float, float]  # width and height of a cell, as fractions
    peaks: int  # of the cells: the local maxima that may be the worst of a region

    @property
    def nbytes(self) -> int:
        """The memory of the arrays, in bytes."""
        return self.x.nbytes + self.y.nbytes + self.heights.nbytes + self.features.nbytes


class Samples:
    """The sampled cells of a picture, of all its tiles if it has any."""

    def __init__(self, sampled: Sequence[tuple[Box, Sample]]) -> None:
        """Take cells with the part of the picture that each sample is of."""
        points, cells, ranks, peaks = [np.empty((0, 2))], [np.empty((0, 2))], [np.empty(0)], [np.empty(0, bool)]
        for (left, top, right, bottom), sample in sampled:
            edges = np.array([right - left, bottom - top])
            points.append(np.stack([sample.x, sample.y], 1) * edges + (left, top))
            cells.append(np.broadcast_to(edges * sample.cell, points[-1].shape))
            ranks.append(sample.heights)
            peaks.append(np.arange(len(sample.heights)) < sample.peaks)
        self._points, self._cells = np.concatenate(points), np.concatenate(cells)
        self._heights, self._peaks = np.concatenate(ranks), np.concatenate(peaks)
        self._features = [features for _, sample in sampled for features in sample.features]

    def worst(
        self, box: Sequence[float], polygon: Sequence[Sequence[float]], *, peaks: bool = True
    ) -> np.ndarray | None:
        """Return the features float16 [D] of the worst cell of a place; None where none was sampled there.

        Args:
            box: of the place: x, y, width, height in pixels. A cell may lie beyond it by its own size.
            polygon: of the place; cells with their centres inside go before others.
            peaks: whether local maxima go before all others, as in a region.
        """
        low, high = np.array(box[:2]), np.add(box[:2], box[2:])
        near = np.flatnonzero(((self._points >= low - self._cells) & (self._points <= high + self._cells)).all(1))
        if not len(near):
            return None
        inside = _encloses(np.array(polygon), self._points[near])
        return self._features[near[np.lexsort([self._heights[near], inside, self._peaks[near] & peaks])[-1]]]

    def highest(self) -> Place | None:
        """Return the place of the cell that is the worst of all; None where none was sampled."""
        if not len(self._heights):
            return None
        worst = int(self._heights.argmax())
        (x, y), (width, height) = self._points[worst] - self._cells[worst] / 2, self._cells[worst]
        return max(0.0, float(x)), max(0.0, float(y)), float(width), float(height)


def _encloses(polygon: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return whether a closed polygon float64 [n, 2] encloses points float64 [m, 2], bool [m]."""
    inside = np.zeros(len(points), bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y0 != y1:
            crossed = (points[:, 1] < y0) != (points[:, 1] < y1)
            inside ^= crossed & (points[:, 0] < x0 + (points[:, 1] - y0) * (x1 - x0) / (y1 - y0))
    return inside


@dataclass(frozen=True)
class Likeness:
    """The known defect that a region is most like."""

    defect: int  # its number
    id: str  # of the feedback that named it
    kind: str  # empty where no kind was said
    distance: float  # 0..2
    limit: float  # above which a region is none of the known defects
    alike: bool  # whether the distance is not above the limit
    seen: int  # images in which this kind is known


class KnownDefects:
    """The known defects of a gallery, in memory; for any thread."""

    def __init__(self, gallery: Gallery, known: Sequence[KnownDefect], *, everywhere: bool = False) -> None:
        """Read what comparing depends on: maps of up to 16 images. `everywhere`: all cells of an image are sampled.

        Raises GalleryDamaged.
        """
        self._settings = gallery.settings
        self._everywhere = everywhere
        self._level = levels_inside(gallery.settings, gallery.stored_levels)[-1]  # not what sees all around
        self._moments = _moments(gallery, self._level)
        self._known = known
        features = [one.features for one in known]
        self._scaled = self._compared(np.stack(features)) if features else np.empty((0, 0), np.float32)
        self._seen = Counter(kind for kind, _ in {(one.kind, one.id) for one in known})
        self._limits = {kind: self._limit(kind) for kind in self._seen}

    def most_like(self, features: np.ndarray) -> Likeness | None:
        """Return the known defect that a place with these features, float16 [D], is most like; None: none is known."""
        if not self._known:
            return None
        distances = 1 - self._scaled @ self._compared(features[None])[0]
        nearest = int(distances.argmin())
        found, distance = self._known[nearest], max(0.0, float(distances[nearest]))
        limit = self._limits[found.kind]
        alike = distance <= limit
        return Likeness(found.defect, found.id, found.kind, distance, limit, alike, self._seen[found.kind])

    def samples(
        self,
        pyramid: Sequence[Tensor],
        queries: Iterable[int],
        means: Tensor,
        size: Size,
        cells: Tensor | None,
    ) -> list[Sample]:
        """Return the cells of queries that may be the worst of a region, the local maxima; or all, those first.

        Args:
            pyramid: all levels [B, H*W, C].
            queries: their numbers in it, n of them.
            means: float32 [n, P] of the grid of comparison, by which cells are ranked.
            size: (H, W) of that grid.
            cells: bool [n, P], those that count; None: all.
        """
        heights = (means if cells is None else means.masked_fill(~cells, -torch.inf)).cpu().numpy()
        return [
            self._sample([level[query] for level in pyramid], of_query, size)
            for query, of_query in zip(queries, heights, strict=True)
        ]

    def _sample(self, levels: Sequence[Tensor], heights: np.ndarray, size: Size) -> Sample:
        height, width = size
        order = np.argsort(-heights, kind="stable")
        order = order[np.isfinite(heights[order])]
        is_peak = (maximum_filter(heights.reshape(size), 3) == heights.reshape(size)).ravel()
        peaks = order[is_peak[order]][:MOST_CELLS]
        order = np.concatenate([peaks, order[~np.isin(order, peaks)]]) if self._everywhere else peaks
        rows, columns = np.divmod(order, width)
        y, x = (rows + 0.5) / height, (columns + 0.5) / width
        return Sample(x, y, heights[order], self._features(levels, size, y, x), (1 / width, 1 / height), len(peaks))

    def _features(self, levels: Sequence[Tensor], grid: Size, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the vectors of levels [H*W, C] at places, float16 [n, D]; finer levels averaged to the grid."""
        found = []
        for level, size in zip(levels, self._settings.sizes, strict=True):
            height, width = wanted = min(size[0], grid[0]), min(size[1], grid[1])
            cells = (y * height).astype(np.int64) * width + (x * width).astype(np.int64)
            averaged = average(level[None].float(), size, wanted)[0]
            found.append(averaged[torch.from_numpy(cells).to(level.device)].cpu().numpy())
        return np.concatenate(found, 1).astype("<f2")

    def _compared(self, features: np.ndarray) -> np.ndarray:
        """Return vectors float32 [n, C] of features float16 [n, D], whose products are the cosines of places."""
        ends = np.cumsum([channels for channels, _, _ in self._settings.level_shapes])
        end, (mean, deviation) = int(ends[self._level]), self._moments
        level = (features[:, end - len(mean) : end].astype(np.float32) - mean) / deviation
        scaled: np.ndarray = level / np.maximum(np.linalg.norm(level, axis=1, keepdims=True), SMALLEST)
        return scaled

    def _limit(self, kind: str) -> float:
        """Return the distance from which on a place is not of a kind."""
        if self._seen[kind] < ENOUGH:
            return FAR
        of = [number for number, one in enumerate(self._known) if one.kind == kind]
        _, images = np.unique([self._known[number].id for number in of], return_inverse=True)
        scaled, farthest = self._scaled[of], 0.0
        for first in range(0, len(of), BLOCK):
            some = slice(first, first + BLOCK)
            distances = 1 - scaled[some] @ scaled.T
            distances[images[some, None] == images] = np.inf
            farthest = max(farthest, float(distances.min(1).max()))
        return farthest


def known_defects_of(gallery: Gallery) -> KnownDefects | None:
    """Return the known defects of a gallery, or None where it has none. Raises GalleryDamaged."""
    known = gallery.catalog.known_defects(gallery.catalog.channels)
    return KnownDefects(gallery, known) if known else None


def _moments(gallery: Gallery, level: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and deviation of each channel of a level over a sample of the gallery, float32 [C]."""
    (maps,) = gallery.maps([image.key for image in gallery.sample(SAMPLE)], [level])  # [n, H*W, C]
    values = maps.reshape(-1, maps.shape[-1]).astype(np.float32)
    return values.mean(0), np.maximum(values.std(0), SMALLEST)
