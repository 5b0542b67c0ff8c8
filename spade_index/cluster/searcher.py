"""A worker that searches the maps and the index of a gallery, in a process of its own on some machine.

It opens the gallery when it is first asked, reads the maps that it is asked for, and keeps those used last. Each worker
is asked for the images of its part of the shards, and for its part of the index's lists; it could read all of them, so
it can stand in for another one.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import faiss
import numpy as np
import torch

from spade_index.errors import GalleryDamaged, GalleryError, InputError
from spade_index.gallery.catalog.tables import IndexRow
from spade_index.gallery.index.index import Index, IndexDescription
from spade_index.gallery.index.lists import Candidates, InvertedLists, Probes
from spade_index.gallery.index.search import Neighbour
from spade_index.gallery.reader import Gallery
from spade_index.gallery.remote.cache import CacheSettings
from spade_index.kernels import choose_kernel
from spade_index.method.comparison import Comparison
from spade_index.method.interest import interest_of
from spade_index.method.pixel_search import PixelSearch
from spade_index.settings import SearchSettings

from .there import Kept, Reader, Seen

OPEN = 4  # searches that are open at a time


@dataclass(frozen=True)
class SearchOrder:
    """What all workers of a search are told."""

    folder: str  # that a path of the cache may be relative to
    device: str
    kernel: str | None
    map_memory: int | None  # bytes, for each gallery
    cores: int
    cache: CacheSettings | None  # of galleries in object stores


@dataclass(frozen=True)
class Search:
    """Whose maps are searched, and how."""

    gallery: Seen
    settings: SearchSettings


class Nearest(NamedTuple):
    """The nearest pixels of one query among those of a worker's images."""

    distances: np.ndarray  # float32 [P, kappa], squared
    matches: np.ndarray  # unsigned integers [P, kappa], image * P + pixel
    hits: int  # images whose maps were in memory
    misses: int  # images whose maps were read

    @property
    def bytes(self) -> int:
        """The number of bytes that travel."""
        return self.distances.nbytes + self.matches.nbytes


class Searcher(Reader):
    """Searches one query at a time."""

    def __init__(self, order: SearchOrder) -> None:
        self._order = order
        self._pixels: Kept[PixelSearch] = Kept(OPEN)
        self._lists: Kept[tuple[InvertedLists, np.ndarray]] = Kept(OPEN)  # and keys of images that were removed since
        with suppress(OSError):
            os.chdir(order.folder)

    def search(self, of: Search, keys: Sequence[int], levels: Sequence[np.ndarray]) -> Nearest:
        """Find the nearest pixels of a query among those of images.

        Args:
            of: what is searched, and how.
            keys: of the images, in the order in which matches number them.
            levels: what is compared of the query, float32 [H*W, C], the finest first.

        Raises:
            ClusterError: the gallery that the program sees is not here.
            GalleryError: the snapshot was deleted, or maps cannot be read.
            InputError: the kernel refuses the settings.
        """
        torch.set_num_threads(self._order.cores)  # torch has this setting by thread
        pixels = self._pixels.get(of, partial(self._opened, of.gallery), partial(self._pixel_search, of.settings))
        hits, misses = pixels.map_stats.hits, pixels.map_stats.misses
        query = [torch.from_numpy(level.copy())[None] for level in levels]  # Ray's may not be written to
        (found,) = pixels.parts(query, [[Neighbour("", key, 0.0) for key in keys]])
        numbers = np.min_scalar_type(len(keys) * levels[0].shape[0])
        return Nearest(
            found.distances[0].cpu().numpy(),
            found.matches[0].cpu().numpy().astype(numbers),
            pixels.map_stats.hits - hits,
            pixels.map_stats.misses - misses,
        )

    def scan(self, of: Seen, probes: Probes, count: int) -> Candidates:
        """Find the `count` nearest images of queries in some lists of a gallery's index.

        Raises:
            ClusterError: the gallery that the program sees is not here.
            GalleryError: the snapshot or the index was deleted, or the index is damaged.
        """
        assert of.index is not None
        faiss.omp_set_num_threads(self._order.cores)
        lists, removed = self._lists.get(of, partial(self._opened, of), partial(self._index_lists, of.index))
        return lists.nearest(probes, count, removed)

    def close(self, of: Search) -> None:
        """Close what was opened for a search, if it is open, and what of its index is."""
        self._pixels.close(of)
        self._lists.close(of.gallery)

    def _opened(self, seen: Seen) -> Gallery:
        return self.open(seen.path, seen.snapshot, seen.identity, self._order.cache)

    def _index_lists(self, row: IndexRow, gallery: Gallery) -> tuple[InvertedLists, np.ndarray]:
        try:
            path = gallery.file(f"index/{row.file}")
            path.stat()
        except FileNotFoundError as error:
            raise GalleryError(
                f"{gallery.path}: {row.file} is not there for the worker on {self.node()}: if the index was rebuilt "
                "since the gallery was opened, open it again"
            ) from error
        lists = Index(path, IndexDescription.from_json(row.description)).lists
        if lists is None:
            raise GalleryDamaged(f"{path}: it has no lists: rebuild it with `spade-index index {gallery.path}`")
        return lists, np.array(gallery.catalog.removed_keys(gallery.snapshot, since=row.snapshot), np.int64)

    def _pixel_search(self, settings: SearchSettings, gallery: Gallery) -> PixelSearch:
        comparison, device = Comparison(gallery, settings), torch.device(self._order.device)
        try:
            kernel = choose_kernel(device, self._order.kernel)
        except ValueError as error:
            raise InputError(str(error)) from error
        interest = interest_of(gallery, comparison, settings)
        return PixelSearch(gallery, settings, comparison, kernel, device, self._order.map_memory, interest)
