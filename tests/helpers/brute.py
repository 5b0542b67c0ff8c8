"""The method as defined, in float64, over shards read with h5py alone."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
from scipy.ndimage import gaussian_filter


class PlainGallery:
    """The images of a gallery's latest snapshot, read with sqlite3 and h5py only."""

    def __init__(self, path: Path) -> None:
        self.pooled: dict[str, np.ndarray] = {}  # id -> [D]
        self.maps: dict[str, list[np.ndarray]] = {}  # id -> [H*W, C] for each level
        with closing(sqlite3.connect(path / "catalog.sqlite")) as db:
            (settings,) = db.execute("SELECT value FROM meta WHERE name = 'settings'").fetchone()
            rows = db.execute(
                "SELECT id, file, row FROM images JOIN shards USING (shard) WHERE removed IS NULL"
            ).fetchall()
        self.sizes = [(height, width) for _, height, width in json.loads(settings)["level_shapes"]]
        self.input_size = tuple(json.loads(settings)["preprocessing"]["input_size"])
        for id, file, row in rows:
            with h5py.File(path / "shards" / file) as shard:
                self.pooled[id] = shard["pooled"][row].astype(float)
                self.maps[id] = [shard[f"maps/{level}"][row].astype(float) for level in range(len(self.sizes))]

    def nearest(self, query: np.ndarray, k: int) -> list[tuple[str, float]]:
        """Return the ids and squared distances of the k nearest images."""
        distances = sorted((float(((d - query) ** 2).sum()), id) for id, d in self.pooled.items())
        return [(id, distance) for distance, id in distances[:k]]

    def variances(self) -> list[float]:
        """Return the variance of all stored values of each level."""
        return [float(np.stack([maps[level] for maps in self.maps.values()]).var()) for level in range(len(self.sizes))]

    def pixels(
        self, query: Sequence[np.ndarray], ids: Sequence[str], weights: Sequence[float], mode: str, kappa: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return squared distances [P, kappa] and matches [P, kappa] of a query's levels [H*W, C] in these images."""
        if mode == "per-level":
            total, first = 0.0, None
            for level, weight in enumerate(weights):
                images = np.concatenate([self.maps[id][level] for id in ids])
                distances, matches = _smallest(query[level], images, kappa)
                first = matches if first is None else first
                total = total + weight * _upsample(distances, self.sizes[level], self.sizes[0], bilinear=True)
            return total / len(weights), first

        bilinear = mode == "concat-bilinear"
        images = [upsampled(self.maps[id], self.sizes, weights, bilinear) for id in ids]
        return _smallest(upsampled(query, self.sizes, weights, bilinear), np.concatenate(images), kappa)

    def score_map(self, distances: np.ndarray, smoothing: float) -> np.ndarray:
        """Return squared distances [P, kappa] as a score map [H, W] of the input size."""
        height, width = self.input_size
        coarse = distances.mean(1, keepdims=True)
        fine = _upsample(coarse, self.sizes[0], self.input_size, bilinear=True)
        return gaussian_filter(fine.reshape(height, width), smoothing)


def upsampled(
    levels: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]], weights: Sequence[float], bilinear: bool
) -> np.ndarray:
    """Return an image's levels [H*W, C] at the finest grid, each times the root of its weight: float64 [P, D]."""
    finest = [
        _upsample(values, size, sizes[0], bilinear=bilinear) * weight**0.5
        for values, size, weight in zip(levels, sizes, weights, strict=True)
    ]
    return np.concatenate(finest, axis=1)


def _smallest(query: np.ndarray, images: np.ndarray, kappa: int) -> tuple[np.ndarray, np.ndarray]:
    distances = ((query[:, None].astype(float) - images[None]) ** 2).sum(2)  # [P, K*P]
    order = np.argsort(distances, axis=1, kind="stable")[:, :kappa]
    return np.take_along_axis(distances, order, 1), order


def _upsample(values: np.ndarray, size: Sequence[int], target: Sequence[int], *, bilinear: bool) -> np.ndarray:
    """Return values [H*W, C] resampled to the grid `target`, with half-pixel centres."""
    rows, columns = (_weights(there, here, bilinear) for here, there in zip(size, target, strict=True))
    grid = values.astype(float).reshape(*size, -1)
    return np.einsum("ih,jw,hwc->ijc", rows, columns, grid).reshape(target[0] * target[1], -1)


def _weights(target: int, size: int, bilinear: bool) -> np.ndarray:
    """Return the weight of each of `size` cells in each of `target` cells, [target, size]."""
    matrix = np.zeros((target, size))
    for place in range(target):
        if not bilinear:
            matrix[place, place * size // target] = 1
            continue
        centre = max((place + 0.5) * size / target - 0.5, 0)
        low = min(int(centre), size - 1)
        matrix[place, low] += 1 - (centre - low)
        matrix[place, min(low + 1, size - 1)] += centre - low
    return matrix
