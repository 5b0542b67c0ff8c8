"""A worker that searches the maps of a gallery's images, in a process of its own on some machine.

It opens the gallery when it is first asked, reads the maps that it is asked for, and keeps those used last. Each worker
is asked for the images of its part of the shards; it could read all of them, so it can stand in for another one.
"""

import os
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from spade_index.errors import InputError
from spade_index.gallery.index.search import Neighbour
from spade_index.gallery.location import Location
from spade_index.gallery.reader import Gallery
from spade_index.gallery.remote.cache import CacheSettings
from spade_index.kernels import choose_kernel
from spade_index.method.comparison import Comparison
from spade_index.method.interest import interest_of
from spade_index.method.pixel_search import PixelSearch
from spade_index.settings import SearchSettings

from .there import Reader

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
    """What is searched, and how."""

    gallery: Path | Location  # absolute
    snapshot: int
    identity: str  # of what is there: see `identity_of`
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
        self._open: OrderedDict[Search, tuple[Gallery, PixelSearch]] = OrderedDict()  # the least recently used first
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
        pixels = self._opened(of)
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

    def close(self, of: Search) -> None:
        """Close what was opened for a search, if it is open."""
        if of in self._open:
            self._open.pop(of)[0].close()

    def _opened(self, of: Search) -> PixelSearch:
        if of not in self._open:
            while len(self._open) >= OPEN:
                self.close(next(iter(self._open)))
            gallery = self.open(of.gallery, of.snapshot, of.identity, self._order.cache)
            try:
                self._open[of] = gallery, self._pixel_search(gallery, of.settings)
            except BaseException:
                gallery.close()
                raise
        self._open.move_to_end(of)
        return self._open[of][1]

    def _pixel_search(self, gallery: Gallery, settings: SearchSettings) -> PixelSearch:
        comparison, device = Comparison(gallery, settings), torch.device(self._order.device)
        try:
            kernel = choose_kernel(device, self._order.kernel)
        except ValueError as error:
            raise InputError(str(error)) from error
        interest = interest_of(gallery, comparison, settings)
        return PixelSearch(gallery, settings, comparison, kernel, device, self._order.map_memory, interest)
