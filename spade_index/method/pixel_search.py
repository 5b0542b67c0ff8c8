"""Schedule the pixel search: which maps are in memory, which queries share a launch, and what overlaps with it."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from spade_index.errors import InputError
from spade_index.gallery.index.search import ImageSearcher, Neighbour
from spade_index.gallery.reader import Gallery
from spade_index.gallery.store.storage import OtherCodes
from spade_index.images.geometry import Geometry
from spade_index.kernels import KernelChoice, MapPool, PoolStats, nearest_pixels
from spade_index.kernels.codes import Coding
from spade_index.kernels.map_pool import slot_bytes
from spade_index.kernels.pyramid import Size
from spade_index.settings import SearchSettings

from .comparison import Comparison
from .interest import Interest
from .scores import enlarged

POOL_BYTES = 64 << 20  # budget of the map pool on a CPU, where the system caches the files, too
POOL_SHARE = 0.5  # budget on a GPU, as a share of its free memory


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
        self._map_memory = map_memory
        self._interest = interest
        self._may_be_codes = interest is None and search.mode == "concat-nearest"

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
        running = None
        for queries in self._launches(candidates):
            pages = self._fetch([level[queries.start : queries.stop] for level in pyramid], candidates, queries)
            finished, running = running, finish(self._launch(queries, pyramid, pages))
            if finished is not None:  # a GPU computed it while the maps of the next launch were fetched
                yield finished
        if running is not None:
            yield running

    def _fetch(self, levels: Sequence[Tensor], candidates: Sequence[Sequence[Neighbour]], queries: range) -> Tensor:
        """Make the maps of queries' candidates resident, and return their slots, int64 [B, K]."""
        wanted = [[neighbour.key for neighbour in candidates[query]] for query in queries]
        self._gallery.expect_maps(sorted({key for keys in wanted for key in keys}), self._comparison.levels)
        if self._interest is None:
            try:
                return self.map_pool.fetch(wanted)
            except OtherCodes:  # from now on, maps are decoded when they are read
                self._may_be_codes = False
                del self.map_pool
                return self.map_pool.fetch(wanted)
        if self._interest.must_reach(levels):
            self.map_pool.forget()
        pages = self.map_pool.fetch(wanted)
        while self._interest.must_reach(levels):  # the maps that were read hold longer vectors than those before
            self.map_pool.forget()
            pages = self.map_pool.fetch(wanted)
        return pages

    def _launch(self, queries: range, pyramid: Sequence[Tensor], pages: Tensor) -> Found:
        try:
            distances, matches = nearest_pixels(
                [level[queries.start : queries.stop].to(self._device) for level in pyramid],
                self.map_pool.maps,
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

    def _launches(self, candidates: Sequence[Sequence[Neighbour]]) -> Iterator[range]:
        """Split queries into runs of equally many candidates, whose maps, shared ones counted once, fit half the pool.

        The other half is for the maps that are fetched while a launch is running.
        """
        if not candidates:
            return  # and leave the pool unallocated
        slots = max(1, self.map_pool.slots // 2)
        first = 0
        keys: set[int] = set()
        for query, neighbours in enumerate(candidates):
            more = {n.key for n in neighbours}
            if query > first and (len(neighbours) != len(candidates[first]) or len(keys | more) > slots):
                yield range(first, query)
                first, keys = query, set()
            keys |= more
        yield range(first, len(candidates))

    @cached_property
    def map_pool(self) -> MapPool:
        """The normal images' maps that are in memory on the device.

        Where not all of the gallery's fit, they are kept in its codes, if these are smaller.
        """
        budget = POOL_BYTES if self._map_memory is None else self._map_memory
        if self._map_memory is None and self._device.type == "cuda":
            budget = int(POOL_SHARE * torch.cuda.mem_get_info(self._device)[0])
        how = self._comparison.sizes, self._comparison.channels
        fused = self._kernel.fused and self._search.mode == "concat-nearest"
        coding = self._coding(budget, slot_bytes(*how, fused))
        read = self._comparison.read if self._interest is None else self._interest.read
        return MapPool(
            budget,
            *how,
            read if coding is None else self._comparison.read_codes,
            device=self._device,
            fused=fused,
            coding=coding,
            at_least=2
            * min(self._search.gallery_neighbours, len(self._gallery)),  # of the running launch, and of the next
            at_most=len(self._gallery),
        )

    def _coding(self, budget: int, prepared: int) -> Coding | None:
        """Return the codes to keep maps in, of which one takes `prepared` bytes as values; None: keep values."""
        if len(self._gallery) * prepared <= budget or not self._may_be_codes:
            return None
        coding = self._comparison.coding
        return coding if coding.map_bytes < prepared else None

    @property
    def map_bytes(self) -> int:
        """Memory that the map pool takes, in bytes; 0 before the first search."""
        return self.map_pool.bytes if "map_pool" in vars(self) else 0

    @property
    def map_stats(self) -> PoolStats:
        """Numbers of maps found in memory, and of maps read."""
        return self.map_pool.stats if "map_pool" in vars(self) else PoolStats()

    def info(self) -> dict[str, Any]:
        """Return the size and the counts of the map pool, in values for JSON."""
        return self.map_pool.info()

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
