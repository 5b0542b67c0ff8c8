"""Search the image level by the workers of a crew: each scans its share of the inverted lists of a gallery's index.

All workers open the one file of the index, mapped into memory, so each reads and keeps the pages of its share alone.
Which lists a query is searched in is decided here, and what workers find in them is merged to what one process finds,
to the bit. Images that came after the index, small galleries without lists, and the exact ranking of the candidates are
this process's, as are lists that are scanned sooner than workers are asked.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from spade_index.gallery.index.lists import Candidates, InvertedLists, Probes, merged
from spade_index.gallery.index.search import Neighbour
from spade_index.gallery.reader import Gallery

from .crew import Call, Crew
from .parts import Parts
from .there import seen_here

SCANNED_HERE = 32 << 20  # bytes of lists up to which a batch of queries is searched sooner here than by workers
AHEAD = 4  # batches for each worker that are asked for at a time


@dataclass
class Travelled:
    """What has travelled, as if every worker were on a machine of its own."""

    queries: int = 0
    calls: int = 0
    bytes_to_workers: int = 0  # of queries
    bytes_back: int = 0  # of distances, and of numbers of matches or of images


class Shared(Protocol):
    """The workers, as searches of several galleries share them."""

    crew: Crew
    parts: int  # the worker at a place has the part place % parts
    scanned: Travelled
    scanned_here: int  # bytes, as SCANNED_HERE


@dataclass
class Batch:
    """Queries that are searched together."""

    probes: Probes
    asked: deque[tuple[np.ndarray, Call]] = field(default_factory=deque)  # calls, and which queries each is about


class CrewImages:
    """Finds the nearest images of a gallery by workers: see `ImageSearcher`. For one thread at a time."""

    def __init__(self, on: Shared, gallery: Gallery) -> None:
        """Search for images of a gallery, at the snapshot that it is at, by the workers."""
        self._on, self._crew = on, on.crew
        self._gallery, self._seen = gallery, seen_here(gallery)
        self._part_of: np.ndarray | None = None  # once workers are asked

    def nearest(self, pooled: np.ndarray, k: int) -> list[list[Neighbour]]:
        """Return what `Gallery.nearest` does.

        Raises ClusterError if too many workers are lost over a query, and GalleryError.
        """
        if self._gallery.index_row is not self._seen.index:  # the gallery has moved to another snapshot
            self._seen, self._part_of = seen_here(self._gallery), None
        return self._gallery.nearest(pooled, k, self.scan)

    def nearest_of(self, pooled: np.ndarray, keys: np.ndarray, k: int) -> list[list[Neighbour]]:
        """Return what `Gallery.nearest_of` does."""
        return self._gallery.nearest_of(pooled, keys, k)

    def scan(
        self, lists: InvertedLists, batches: Iterable[Probes], count: int, without: np.ndarray
    ) -> Iterator[Candidates]:
        """Yield what `scan_here` does."""
        waiting: deque[Batch] = deque()
        try:
            for probes in batches:
                waiting.append(Batch(probes))
                self._ask(lists, waiting[-1], count)
                if len(waiting) > AHEAD * self._crew.count:
                    yield self._answered(lists, waiting[0], count, without)
                    waiting.popleft()
            while waiting:
                yield self._answered(lists, waiting[0], count, without)
                waiting.popleft()
        finally:
            for batch in waiting:
                for _, call in batch.asked:
                    self._crew.forget(call)

    def _ask(self, lists: InvertedLists, batch: Batch, count: int) -> None:
        """Ask a worker of each part that has some of the lists, unless to scan them here takes less long."""
        travelled, probes = self._on.scanned, batch.probes
        if int(lists.bytes[probes.lists].sum(where=probes.lists >= 0)) <= self._on.scanned_here:
            return
        travelled.queries += len(probes.queries)
        parts = self._parts_of(lists)
        for part in range(self._on.parts):
            queries, mine = probes.within(parts == part)
            if len(queries):
                having = range(part, self._crew.count, self._on.parts)
                call = self._crew.ask("a query", "scan", self._seen, mine, count, prefer=having)
                batch.asked.append((queries, call))
                travelled.calls += 1
                travelled.bytes_to_workers += sum(values.nbytes for values in mine)

    def _answered(self, lists: InvertedLists, batch: Batch, count: int, without: np.ndarray) -> Candidates:
        if not batch.asked:
            return lists.nearest(batch.probes, count, without)
        found: list[tuple[np.ndarray, Candidates]] = []
        while batch.asked:
            queries, call = batch.asked.popleft()
            candidates: Candidates = self._crew.answer(call)[0]
            found.append((queries, candidates))
            self._on.scanned.bytes_back += sum(values.nbytes for values in candidates)
        return merged(found, len(batch.probes.queries), count)

    def _parts_of(self, lists: InvertedLists) -> np.ndarray:
        """Return the part that each list is in, int64 [lists]: those of one file are always divided alike."""
        if self._part_of is None:
            parts = Parts(self._on.parts)
            parts.divide(dict(enumerate(lists.bytes.tolist())))
            self._part_of = np.empty(lists.count, np.int64)
            for part, positions in parts.of(range(lists.count)).items():
                self._part_of[positions] = part
        return self._part_of
