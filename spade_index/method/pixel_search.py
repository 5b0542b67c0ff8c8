"""Schedule the pixel search: which maps are in memory, which queries share a launch, and what overlaps with it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from spade_index.errors import InputError
from spade_index.gallery.index.search import ImageSearcher, Neighbour
from spade_index.gallery.reader import Gallery
from spade_index.images.geometry import Geometry
from spade_index.kernels import KernelChoice, PoolStats, nearest_pixels
from spade_index.kernels.pyramid import Size
from spade_index.settings import SearchSettings

from .comparison import Comparison
from .interest import Interest
from .map_memory import MapMemory
from .scores import enlarged


class Found(NamedTuple):
    """The nearest pixels of some consecutive queries, on the device of the search."""

    queries: range
    distances: Tensor  # float32 [B, P, kappa], squared; 0 where a cell does not count
    matches: Tensor  # int64 [B, P, kappa], neighbour * P + pixel
    cells: Tensor | None = None  # bool [B, P]: the cells that count; None: all (see `interest`)

    def counted(self, grid: Size, input_size: Size) -> list[tuple[np.ndarray | None, np.ndarray | None]]:
        """Return the cells that count of each query, bool [P], and the pixels of its score map, bool [H, W]."""
        if self.cells is None:
            return [(None, None)] * len(self.queries)
        return list(zip(self.cells.cpu().numpy(), enlarged(self.cells, grid, input_size), strict=True))


class PixelSearcher(Protocol):
    """Finds nearest pixels: `PixelSearch` in this process, `cluster` where the maps are."""

    def nearest(
        self,
        pyramid: Sequence[Tensor],
        candidates: Sequence[Sequence[Neighbour]],
        places: Sequence[Geometry] | None = None,
    ) -> Iterator[Found]:
        """Find nearest pixels: see `PixelSearch.nearest`."""

    @property
    def at_once(self) -> int:
        """Number of queries to hand over together, where there are many."""

    @property
    def map_bytes(self) -> int:
        """Memory of this process that maps take, in bytes."""

    @property
    def map_stats(self) -> PoolStats:
        """Numbers of maps found in memory, and of maps read."""

    def info(self) -> dict[str, Any]:
        """Return where maps are kept and how they were used, in values for JSON."""

    def close(self) -> None:
        """Give up what is held for this search outside of this process."""


class Elsewhere(Protocol):
    """Where maps and indexes are searched, if not in this process."""

    def image_search(self, gallery: Gallery) -> ImageSearcher:
        """Return what finds the nearest images of a gallery: the same ones as the gallery itself."""

    def pixel_search(
        self,
        gallery: Gallery,
        search: SearchSettings,
        comparison: Comparison,
        device: torch.device,
        interest: Interest | None,
    ) -> PixelSearcher:
        """Return what searches the maps of a gallery there; results are on the device.

        Raises InputError for settings that are not searched by there.
        """


def images_of(gallery: Gallery, elsewhere: Elsewhere | None) -> ImageSearcher:
    """Return what finds the nearest images of a gallery: the gallery itself, if not elsewhere."""
    return gallery if elsewhere is None else elsewhere.image_search(gallery)


class PixelSearch:
    """Searches the maps of a gallery's images with one kernel, and keeps the maps used last in memory.

    For one thread at a time.
    """

    at_once = 1  # nothing is gained by more: there is no way there and back

    def __init__(
        self,
        gallery: Gallery,
        search: SearchSettings,
        comparison: Comparison,
        kernel: KernelChoice,
        device: torch.device,
        map_memory: int | None = None,
        interest: Interest | None = None,
    ) -> None:
        """Prepare a search; no map is read, and no memory taken, before the first query.

        Args:
            gallery: whose maps are searched.
            search: mode, precision, kappa, and how many neighbours at most each query has.
            comparison: which levels are compared, and how.
            kernel: the backend that searches.
            device: where it searches.
            map_memory: bytes of the map pool; by default 64 MiB, or half of a GPU's free memory.
            interest: where cells count; None: everywhere.
        """
        self._gallery = gallery
        self._search = search
        self._comparison = comparison
        self._kernel = kernel
        self._device = device
        self._interest = interest
        self.maps = MapMemory(gallery, search, comparison, kernel, device, map_memory, interest)

    def nearest(
        self,
        pyramid: Sequence[Tensor],
        candidates: Sequence[Sequence[Neighbour]],
        places: Sequence[Geometry] | None = None,
    ) -> Iterator[Found]:
        """Find the kappa nearest pixels of every query pixel among the pixels of the query's candidates.

        Args:
            pyramid: the levels that are compared, prepared, [B, H*W, C], the finest first.
            candidates: the images to search, for each of the B queries.
            places: of the queries in their pictures, where there is a region of interest; None: they are whole.

        Yields:
            The results, in the order of the queries.

        Raises:
            InputError: the kernel refuses the search settings.
        """
        yield from self.parts(pyramid, candidates, lambda found: within(self._interest, found, candidates, places))

    def parts(
        self,
        pyramid: Sequence[Tensor],
        candidates: Sequence[Sequence[Neighbour]],
        finish: Callable[[Found], Found] = lambda found: found,
    ) -> Iterator[Found]:
        """Yield what `nearest` does, finished by `finish`; as it is, distances of cells that do not count are large."""
        running, first = None, 0
        while first < len(candidates):
            queries = self._next_launch(candidates, first)
            pages = self._fetch([level[queries.start : queries.stop] for level in pyramid], candidates, queries)
            if pages is None:
                continue
            first = queries.stop
            finished, running = running, finish(self._launch(queries, pyramid, pages))
            if finished is not None:  # a GPU computed it while the maps of the next launch were fetched
                yield finished
        if running is not None:
            yield running

    def _fetch(
        self, levels: Sequence[Tensor], candidates: Sequence[Sequence[Neighbour]], queries: range
    ) -> Tensor | None:
        """Make the maps of queries' candidates resident, and return their slots, as `MapMemory.fetch` does."""
        wanted = [[neighbour.key for neighbour in candidates[query]] for query in queries]
        self._gallery.expect_maps(sorted({key for keys in wanted for key in keys}), self._comparison.levels)
        if self._interest is None:
            return self.maps.fetch(wanted)
        if self._interest.must_reach(levels):
            self.maps.pool.forget()
        pages = self.maps.fetch(wanted)
        while self._interest.must_reach(levels):  # the maps that were read hold longer vectors than those before
            self.maps.pool.forget()
            pages = self.maps.fetch(wanted)
        return pages

    def _launch(self, queries: range, pyramid: Sequence[Tensor], pages: Tensor) -> Found:
        try:
            distances, matches = nearest_pixels(
                [level[queries.start : queries.stop].to(self._device) for level in pyramid],
                self.maps.pool.maps,
                pages,
                self._search.pixel_neighbours,
                sizes=self._comparison.sizes,
                weights=self._comparison.weights,
                mode=self._search.mode,
                window=self._search.window,
                backend=self._kernel.backend,
                precision=self._search.pixel_precision,
            )  # [B, P, kappa]
        except ValueError as error:
            raise InputError(f"{self._gallery.path}: the pixel search refuses these settings: {error}") from error
        return Found(queries, distances, matches)

    def _next_launch(self, candidates: Sequence[Sequence[Neighbour]], first: int) -> range:
        """Return queries from `first` on, of equally many candidates, whose maps, shared ones counted once, are few."""
        keys: set[int] = set()
        for query in range(first, len(candidates)):
            keys |= {neighbour.key for neighbour in candidates[query]}
            if query > first and (
                len(candidates[query]) != len(candidates[first]) or len(keys) > self.maps.of_a_launch
            ):
                return range(first, query)
        return range(first, len(candidates))

    @property
    def map_bytes(self) -> int:
        """Memory that the map pool takes, in bytes; 0 before the first search."""
        return self.maps.bytes

    @property
    def map_stats(self) -> PoolStats:
        """Numbers of maps found in memory, and of maps read."""
        return self.maps.stats

    def info(self) -> dict[str, Any]:
        """Return the size and the counts of the map pool, in values for JSON."""
        return self.maps.pool.info()

    def close(self) -> None:
        """Do nothing: all that is held is in this process."""


def within(
    interest: Interest | None,
    found: Found,
    candidates: Sequence[Sequence[Neighbour]],
    places: Sequence[Geometry] | None,
) -> Found:
    """Return what counts of what was found, where there is a region of interest."""
    if interest is None:
        return found
    there = [None if places is None else places[query] for query in found.queries]
    near = [candidates[query] for query in found.queries]
    counted = interest.counted(found.distances, found.matches, there, near)
    return found._replace(distances=counted.distances, cells=counted.cells)
