"""Find the nearest images at a snapshot: the index proposes candidates, newer images are compared, all are ranked."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from spade_index.errors import GalleryDamaged
from spade_index.gallery.catalog.tables import IndexRow
from spade_index.gallery.snapshot import SnapshotView

from .delta import Delta
from .descriptors import Descriptors, descriptors_file
from .index import Index, IndexDescription, scan
from .lists import Scan, scan_here

SPARE = 16  # candidates beyond K, so that rounding in FAISS cannot hide a neighbour
ROWS = 8  # descriptors whose distances are computed at a time
ROUNDING = 1e-4  # relative; far above the error of float32 differences


@dataclass(frozen=True)
class Neighbour:
    """A normal image near a query."""

    id: str
    key: int
    distance: float  # squared L2 between pooled descriptors


class ImageSearcher(Protocol):
    """Finds the nearest images of a gallery: the gallery itself, or `cluster`, whose workers share an index's lists."""

    def nearest(self, pooled: np.ndarray, k: int) -> list[list[Neighbour]]:
        """Return the k nearest images of each query: see `Gallery.nearest`."""

    def nearest_of(self, pooled: np.ndarray, keys: np.ndarray, k: int) -> list[list[Neighbour]]:
        """Return the k nearest of some images: see `Gallery.nearest_of`."""


class ImageSearch:
    """Finds the nearest images of a gallery at one snapshot."""

    def __init__(self, images: SnapshotView, file: Callable[[str], Path], row: IndexRow | None) -> None:
        """Open the index: `file` tells where a file of the gallery is, as `Gallery.file` does.

        Where its file is missing, searches compare with all images.

        Raises GalleryDamaged, and what `file` raises.
        """
        self._images = images
        self._index: Index | None = None
        self._descriptors: Descriptors | None = None  # of the index's images
        self._removed = np.empty(0, np.int64)  # keys that the index proposes, of images removed since
        after = -1
        if row is not None and (path := file(f"index/{row.file}")).exists():
            self._index = Index(path, IndexDescription.from_json(row.description))
            with suppress(FileNotFoundError):  # an index of earlier versions has none
                name = f"index/{descriptors_file(Path(row.file))}"
                self._descriptors = Descriptors(images.folder / name, images.shards.open_rows(name))
            self._removed = np.array(images.catalog.removed_keys(images.snapshot, since=row.snapshot), np.int64)
            after = row.snapshot
        self._delta = Delta(images, after)

    def nearest(self, pooled: np.ndarray, k: int, scan: Scan = scan_here) -> list[list[Neighbour]]:
        """Return the k nearest images of each query: see `Gallery.nearest`. k is at most the number of images."""
        images = len(self._images)
        found: list[list[Neighbour]] = [[] for _ in pooled]
        pending = list(range(len(pooled))) if k else []
        described = self._index.description if self._index else None
        count = max(k + SPARE, described.count(k) if described else 0)
        while pending:
            distances, keys = self._candidates(pooled[pending], count, scan)
            uncertain = []
            for position, query in enumerate(pending):
                proposed = keys[position][keys[position] >= 0]
                if len(proposed) < min(count, images):
                    self._images.require_kept()
                    path = self._images.path
                    raise GalleryDamaged(f"{path}: the index lacks images: rebuild it with `spade-index index {path}`")
                found[query] = self._rank(pooled[query], proposed, k)
                if described is not None and not described.exact:
                    continue  # its distances cannot tell ties
                # There may be ties beyond the last candidate.
                limit = found[query][-1].distance * (1 + ROUNDING)
                if len(proposed) < images and float(distances[position][len(proposed) - 1]) <= limit:
                    uncertain.append(query)
            pending, count = uncertain, 4 * count
        return found

    def nearest_of(self, pooled: np.ndarray, keys: np.ndarray, k: int) -> list[list[Neighbour]]:
        """Return the k nearest of the images with these keys int64 [n] to each query; k is at most their number."""
        return [self._rank(query, keys, k) for query in pooled]

    def _candidates(self, queries: np.ndarray, count: int, scan_lists: Scan) -> tuple[np.ndarray, np.ndarray]:
        """Return distances and keys [B, n] of candidates: from the index, and of images that came after it.

        Distances ascend. n is at most `count`, or `count` of either kind if the index's distances are not exact.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        indexed = [self._index.search(queries, count, self._removed, scan_lists)] if self._index else []
        exact = self._index is None or self._index.description.exact
        found = [*indexed] if exact else []
        for keys, descriptors in self._delta.blocks():
            found.append(scan(queries, keys, descriptors, count))
            if len(found) > 16:
                found = [_merge(found, count)]
        if exact:
            return _merge(found, count)
        return _merge([*indexed, _merge(found, count)] if found else indexed, 2 * count)

    def _rank(self, query: np.ndarray, keys: np.ndarray, k: int) -> list[Neighbour]:
        """Return the k nearest of the images with these keys: exact distances, ties to the lowest id."""
        distances = self._distances(query, keys)
        near = np.flatnonzero(distances <= np.partition(distances, k - 1)[k - 1]) if k < len(keys) else range(len(keys))
        ids = self._images.catalog.ids([int(keys[place]) for place in near])
        if len(ids) < len(near):
            raise self._images.deleted()
        ranked = sorted((float(distances[place]), ids[int(keys[place])], int(keys[place])) for place in near)
        return [Neighbour(id, key, distance) for distance, id, key in ranked[:k]]

    def _distances(self, query: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Return the distances float32 [n] of a query float32 [D] to the images with these keys."""
        # Descriptors of the index's images are in one file; others are read from shards.
        places = self._descriptors.places(keys) if self._descriptors else np.full(len(keys), -1)
        if self._descriptors and (places >= 0).all():
            found = self._descriptors.distances(places, query)
            if found is not None:
                return found
        return _squared_distances(query, self._stored(keys, places))

    def _stored(self, keys: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Return the pooled descriptors float32 [n, D] of images; `places` are theirs in the index's file, or -1."""
        stored = np.empty((len(keys), self._images.settings.pooled_dim), np.float32)
        there = places >= 0
        if self._descriptors:
            stored[there] = self._descriptors.at(places[there])
        elsewhere = np.flatnonzero(~there)
        rows = self._images.catalog.images_by_key(keys[elsewhere])
        if any(int(key) not in rows for key in keys[elsewhere]):
            raise self._images.deleted()
        if len(elsewhere):
            stored[elsewhere] = self._images.pooled([rows[int(key)] for key in keys[elsewhere]])
        if not np.isfinite(stored).all():  # such a descriptor is never added
            path = self._images.path
            raise GalleryDamaged(f"{path}: altered descriptors: `spade-index verify {path}` names the file")
        return stored


def _squared_distances(query: np.ndarray, descriptors: np.ndarray) -> np.ndarray:
    """Return the distances float32 [n] of a query float32 [D] to descriptors float32 [n, D], computed in float64."""
    wide = query.astype(np.float64)
    distances = np.empty(len(descriptors), np.float32)
    for start in range(0, len(descriptors), ROWS):  # larger parts would be fresh memory each time, which costs more
        some = slice(start, start + ROWS)
        distances[some] = ((descriptors[some] - wide) ** 2).sum(1)
    return distances


def _merge(found: list[tuple[np.ndarray, np.ndarray]], count: int) -> tuple[np.ndarray, np.ndarray]:
    distances = np.concatenate([d for d, _ in found], axis=1)
    keys = np.concatenate([k for _, k in found], axis=1)
    distances = np.where(keys < 0, np.inf, distances)
    order = np.argsort(distances, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(distances, order, 1), np.take_along_axis(keys, order, 1)
