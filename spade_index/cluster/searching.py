"""Search for pixels by the workers of a crew, where the maps are: only what was found travels back, and is merged.

Calibrations and score maps are this process's; `image_level` is about the nearest images. A worker of each part of the
shards gets a query's prepared levels, searches the
neighbours in its part, and returns the nearest pixels of each pixel. The merge of them is what one search returns, to
the bit. A part may have several workers, its replicas.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spade_index.errors import ClusterError, InputError
from spade_index.gallery.index.search import Neighbour
from spade_index.gallery.location import Location
from spade_index.gallery.reader import Gallery
from spade_index.gallery.remote.cache import CacheSettings
from spade_index.images.geometry import Geometry
from spade_index.kernels import PoolStats, merge_nearest
from spade_index.kernels.window import cells_at_corner
from spade_index.method.comparison import Comparison
from spade_index.method.interest import Interest
from spade_index.method.pixel_search import Found, within
from spade_index.settings import SearchSettings

from .connection import STORE_BYTES
from .crew import Call, Crew, crew_on
from .image_level import SCANNED_HERE, CrewImages, Travelled
from .parts import Parts
from .searcher import Nearest, Search, Searcher, SearchOrder
from .there import seen_here

LOTS = 4  # times as many queries are handed over as are searched at a time: workers seldom wait for more

Asked = list[tuple[list[int], Call]]  # calls for a query, and which of its neighbours each is about


class SearchOnCrew:
    """What `Detector` takes as `elsewhere`; several may share it."""

    def __init__(self, crew: Crew, replicas: int = 1, scanned_here: int = SCANNED_HERE) -> None:
        """Search by a crew, each part of a gallery by at least so many workers. Raises ClusterError for too many.

        Batches of queries that are searched in lists of no more bytes than `scanned_here` are searched by this process.
        """
        if replicas > crew.count:
            raise ClusterError(
                f"{replicas:,} replicas need as many workers, and there are {crew.count:,}: ask for fewer --replicas, "
                "or more --workers"
            )
        self.crew = crew
        self.parts = crew.count // replicas  # of a gallery; the worker at a place has the part place % parts
        self.scanned_here = scanned_here
        self.travelled = Travelled()
        self.scanned = Travelled()  # for the image level
        self._divided: dict[Path | Location, Parts] = {}

    def pixel_search(
        self,
        gallery: Gallery,
        search: SearchSettings,
        comparison: Comparison,
        device: torch.device,
        interest: Interest | None,
    ) -> "CrewPixelSearch":
        """Return what searches a gallery at its snapshot: see `Elsewhere`. Raises InputError for `per-level`."""
        if search.mode == "per-level":
            raise InputError(f"{gallery.path}: the mode `per-level` is searched by one process: leave out --ray")
        seen = seen_here(gallery)
        parts = self._divided.setdefault(seen.path, Parts(self.parts))
        parts.divide({row.shard: row.bytes for row in gallery.catalog.used_shards()})
        return CrewPixelSearch(
            self,
            gallery,
            Search(seen, search),
            parts,
            comparison,
            device,
            interest,
        )

    def image_search(self, gallery: Gallery) -> CrewImages:
        """Return what finds the nearest images of a gallery at its snapshot: see `Elsewhere`."""
        return CrewImages(self, gallery)


class CrewPixelSearch:
    """Searches the maps of a gallery's images by workers: see `PixelSearcher`. For one thread at a time."""

    def __init__(
        self,
        on: SearchOnCrew,
        gallery: Gallery,
        search: Search,
        parts: Parts,
        comparison: Comparison,
        device: torch.device,
        interest: Interest | None,
    ) -> None:
        self._on, self._crew = on, on.crew
        self._gallery, self._search, self._parts = gallery, search, parts
        self._device, self._interest = device, interest
        self._cells = cells_at_corner(comparison.size, search.settings.window)
        sizes = zip(comparison.sizes, comparison.channels, strict=True)
        query = 4 * sum(height * width * channels for (height, width), channels in sizes)  # bytes
        self._ahead = max(1, min(4 * self._crew.count, STORE_BYTES // 2 // query))  # searched at a time: Ray's store
        self.at_once = LOTS * self._ahead
        self.map_stats = PoolStats()  # of the workers
        self.map_bytes = 0  # of this process

    def nearest(
        self,
        pyramid: Sequence[Tensor],
        candidates: Sequence[Sequence[Neighbour]],
        places: Sequence[Geometry] | None = None,
    ) -> Iterator[Found]:
        """Find the kappa nearest pixels of every query pixel, as `PixelSearch.nearest` does, one query at a time.

        Raises InputError if the kernel refuses the search settings, ClusterError if too many workers are lost over a
        query, and GalleryError.
        """
        waiting: deque[tuple[int, Asked]] = deque()
        try:
            for query, near in enumerate(candidates):
                levels = [level[query].float().cpu().numpy() for level in pyramid]
                waiting.append((query, self._ask(levels, near)))
                if len(waiting) > self._ahead:
                    yield within(self._interest, self._answered(*waiting.popleft(), candidates), candidates, places)
            while waiting:
                yield within(self._interest, self._answered(*waiting.popleft(), candidates), candidates, places)
        finally:
            for _, asked in waiting:
                for _, call in asked:
                    self._crew.forget(call)

    def _ask(self, levels: list[np.ndarray], near: Sequence[Neighbour]) -> Asked:
        """Ask a worker of each part for the neighbours that are in it."""
        kappa, rows = self._search.settings.pixel_neighbours, self._gallery.catalog.images_by_key([n.key for n in near])
        if kappa > len(near) * self._cells:
            raise InputError(
                f"{self._gallery.path}: the pixel search refuses these settings: {kappa} nearest pixels of "
                f"{len(near) * self._cells}"
            )
        stored, travelled = self._crew.ray.put(levels), self._on.travelled
        travelled.queries += 1
        asked = []
        for part, positions in self._parts.of(rows[n.key].shard if n.key in rows else 0 for n in near).items():
            few = min(kappa, len(positions) * self._cells)
            what = replace(self._search, settings=replace(self._search.settings, pixel_neighbours=few))
            keys = [near[position].key for position in positions]
            having = range(part, self._crew.count, self._on.parts)
            call = self._crew.ask("a query", "search", what, keys, stored, prefer=having, size=len(keys))
            asked.append((positions, call))
            travelled.calls += 1
            travelled.bytes_to_workers += sum(level.nbytes for level in levels)
        return asked

    def _answered(self, query: int, asked: Asked, candidates: Sequence[Sequence[Neighbour]]) -> Found:
        """Return what all workers have found for a query, merged."""
        distances, matches = [], []
        for positions, call in asked:
            found: Nearest = self._crew.answer(call)[0]
            numbers = torch.from_numpy(found.matches.astype(np.int64))  # [P, n], of the part
            pixels = len(numbers)
            matches.append(torch.tensor(positions)[numbers // pixels] * pixels + numbers % pixels)
            distances.append(torch.from_numpy(found.distances.copy()))
            self._on.travelled.bytes_back += found.bytes
            self.map_stats.hits += found.hits
            self.map_stats.misses += found.misses
        every = torch.cat(distances, 1)[None].to(self._device), torch.cat(matches, 1)[None].to(self._device)
        outside = None if self._interest is None else ~self._interest.inside(every[1], [candidates[query]])
        merged = merge_nearest(*every, self._search.settings.pixel_neighbours, last=outside)
        return Found(range(query, query + 1), *merged)

    def info(self) -> dict[str, Any]:
        """Return the workers, what has travelled, and the counts of their map pools, in values for JSON."""
        counts = {name: getattr(self.map_stats, name) for name in ("hits", "misses", "hit_rate")}
        travelled = {**asdict(self._on.travelled), "image_level": asdict(self._on.scanned)}
        return {"workers": self._crew.count, **travelled, **counts}

    def close(self) -> None:
        """Have the workers close the gallery; it is opened again when it is searched."""
        self._crew.tell("close", self._search)


@contextmanager
def searching_on(
    address: str,
    *,
    workers: int | None = None,
    replicas: int = 1,
    gpus: float = 0.0,
    kernel: str | None = None,
    map_memory: int | None = None,
    cache: CacheSettings | None = None,
    scanned_here: int = SCANNED_HERE,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[SearchOnCrew]:
    """Give what `Detector` takes as `elsewhere`: workers on a Ray cluster.

    Args:
        address: HOST:PORT of the cluster, or `local`.
        workers: their number; None: one for each share of a GPU, or one for each machine.
        replicas: workers that each part of a gallery's shards is searched by.
        gpus: what a worker needs of GPUs.
        kernel: backend of the pixel search on the workers; None: the best for their device.
        map_memory: bytes of maps that a worker keeps of a gallery; as for `Detector`.
        cache: of galleries in object stores, on each machine.
        scanned_here: bytes, as of `SearchOnCrew`.
        say: is called with a line for each worker that is lost.

    Raises:
        ClusterError: Ray is not installed, there is no cluster, it has no room for the workers, or there are fewer
            workers than replicas.
    """
    folder, device = os.getcwd(), "cuda" if gpus else "cpu"

    def order(cores: int) -> SearchOrder:
        return SearchOrder(folder, device, kernel, map_memory, cores, cache)

    with crew_on(address, Searcher, order, workers=workers, gpus=gpus, say=say) as crew:
        elsewhere = SearchOnCrew(crew, replicas, scanned_here)
        with crew:
            yield elsewhere
