"""The inverted lists of an index: which of them a query is searched in, and what is nearest in them.

Where several processes scan some of a query's lists each, what they find is merged to what one process finds, to the
bit: of candidates at the same distance, those with the lowest keys come first, and are kept at the cut.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import faiss
import numpy as np

from spade_index.errors import GalleryDamaged

from .byte_lists import ByteLists, byte_lists
from .mapped import MappedFile
from .prefetch import ID_BYTES, ListPrefetcher

TIES = 16  # candidates that are asked for beyond those wanted, to see whether some are as near as the last of these
MORE_TIES = 4  # times as many, each time that this was not enough
OVER_LISTS, OVER_QUERIES = 1, 3  # FAISS's parallel_mode: what threads share


class Candidates(NamedTuple):
    """What is near to some queries, the nearest first, and of equally near ones the lowest key."""

    distances: np.ndarray  # float32 [B, n], squared; infinite where there are no more
    keys: np.ndarray  # int64 [B, n], of images; -1 where there are no more


class Probes(NamedTuple):
    """The lists that some queries are searched in."""

    queries: np.ndarray  # float32 [B, d], as lists hold descriptors: principal components, if they do
    lists: np.ndarray  # int64 [B, n], their numbers; -1 for none
    centres: np.ndarray  # float32 [B, n], squared distances to the centres of the lists

    def of(self, queries: np.ndarray) -> "Probes":
        """Return those of some queries, int64 [b] or bool [B]."""
        return Probes(*(values[queries] for values in self))

    def within(self, mine: np.ndarray) -> tuple[np.ndarray, "Probes"]:
        """Return the queries int64 [b] that have some of these lists, bool [lists], and their probes of these alone."""
        those = (self.lists >= 0) & mine[self.lists]  # [B, n]
        queries = np.flatnonzero(those.any(1))
        those = those[queries]
        order = np.argsort(~those, axis=1, kind="stable")[:, : int(those.sum(1).max(initial=0))]
        lists, centres = (np.take_along_axis(values[queries], order, 1) for values in (self.lists, self.centres))
        lists = np.where(np.take_along_axis(those, order, 1), lists, -1)
        return queries, Probes(self.queries[queries], lists, centres)


class InvertedLists:
    """The lists of an index, mapped into memory: only pages of those that are scanned are read."""

    def __init__(self, file: MappedFile, index: Any) -> None:
        """Take the lists of `index`, which was read from the file: perhaps behind linear transforms.

        Raises GalleryDamaged if its numbers do not fit each other.
        """
        self._file = file
        self._index = index  # which owns what follows
        ivf: Any = faiss.extract_index_ivf(index)
        lists: Any = faiss.downcast_InvertedLists(ivf.invlists)
        lists.prefetch_nthread = 0  # otherwise FAISS starts threads in each search to prefetch pages of the file
        chain: Any = index.chain if isinstance(index, faiss.IndexPreTransform) else None
        places = range(chain.size()) if chain is not None else ()
        self._transforms: list[Any] = [faiss.downcast_VectorTransform(chain.at(place)) for place in places]
        self._ivf, self._lists = ivf, lists
        self._prefetcher = ListPrefetcher(file, ivf, lists)
        with damage():
            self._require((ivf.quantizer.ntotal, ivf.quantizer.d) == (ivf.nlist, ivf.d))

    @property
    def count(self) -> int:
        """The number of lists."""
        return int(self._ivf.nlist)

    @cached_property
    def bytes(self) -> np.ndarray:
        """The bytes of each list, int64 [lists]."""
        sizes = [self._lists.list_size(number) for number in range(self._ivf.nlist)]
        return np.array(sizes, np.int64) * (self._ivf.code_size + ID_BYTES)

    def transformed(self, queries: np.ndarray) -> np.ndarray:
        """Return descriptors float32 [B, D] as lists hold them, float32 [B, d]."""
        for transform in self._transforms:
            queries = transform.apply(queries)
        return queries

    def probes(self, queries: np.ndarray, count: int) -> Probes:
        """Return the `count` lists whose centres are nearest to each of queries float32 [B, d], as `transformed`."""
        with damage():
            centres, lists = self._ivf.quantizer.search(queries, min(count, self._ivf.nlist))
        return Probes(queries, lists, centres)

    def nearest(self, probes: Probes, count: int, without: np.ndarray) -> Candidates:
        """Return the `count` nearest in each query's lists, leaving out keys `without` int64 [m].

        Distances are as exact as the storage. Raises GalleryDamaged.
        """
        self._file.require_size()
        with damage():
            alike = probes.queries.shape[1] == self._ivf.d and probes.lists.shape == probes.centres.shape
            self._require(alike and int(probes.lists.max(initial=0)) < self._ivf.nlist)
        self._prefetcher.prefetch(probes.lists)
        if self._bytes is not None:
            with damage():
                self._bytes.place(probes.lists)
            return Candidates(*self._bytes.nearest(probes.queries, probes.lists, count, np.sort(without)))
        selected = {"sel": faiss.IDSelectorNot(faiss.IDSelectorBatch(without))} if len(without) else {}
        with damage():
            return self._nearest(probes, count, count + TIES, selected)

    def _require(self, fits: bool) -> None:
        if not fits:
            raise RuntimeError("numbers that do not fit each other")

    @cached_property
    def _bytes(self) -> ByteLists | None:
        """What scans them, if FAISS need not."""
        return byte_lists(self._ivf, self._lists)

    def _nearest(self, probes: Probes, count: int, asked: int, selected: dict[str, Any]) -> Candidates:
        """Ask FAISS for more than are wanted: which of several at the same distance it keeps, depends on the lists."""
        asked = min(asked, max(count, self._ivf.ntotal))
        found = ordered(*self._scanned(probes, asked, selected))
        last = found.distances[:, -1]
        tied = (found.keys[:, -1] >= 0) & (found.distances[:, count - 1] == last)
        distances, keys = found.distances[:, :count], found.keys[:, :count]
        if asked < self._ivf.ntotal and tied.any():
            distances[tied], keys[tied] = self._nearest(probes.of(tied), count, MORE_TIES * asked, selected)
        return Candidates(distances, keys)

    def _scanned(self, probes: Probes, count: int, selected: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        queries, lists = np.ascontiguousarray(probes.queries, np.float32), np.ascontiguousarray(probes.lists, np.int64)
        centres = np.ascontiguousarray(probes.centres, np.float32)
        shape = len(queries), count
        distances, keys = np.empty(shape, np.float32), np.empty(shape, np.int64)
        # Searches at the same time may set it: each is right in either mode.
        self._ivf.parallel_mode = OVER_LISTS if len(queries) < faiss.omp_get_max_threads() else OVER_QUERIES
        how = faiss.SearchParametersIVF(**{"nprobe": lists.shape[1], **selected})
        given = [faiss.swig_ptr(values) for values in (lists, centres, distances, keys)]
        self._ivf.search_preassigned_c(len(queries), faiss.swig_ptr(queries), count, *given, False, how)
        return distances, keys


Scan = Callable[[InvertedLists, Iterable[Probes], int, np.ndarray], Iterator[Candidates]]


def scan_here(lists: InvertedLists, batches: Iterable[Probes], count: int, without: np.ndarray) -> Iterator[Candidates]:
    """Yield what `InvertedLists.nearest` returns for each batch."""
    for probes in batches:
        yield lists.nearest(probes, count, without)


def merged(found: Sequence[tuple[np.ndarray, Candidates]], queries: int, count: int) -> Candidates:
    """Return the `count` nearest of each query, among what was found for some of them [b] in some of their lists."""
    shape = queries, len(found), count
    distances, keys = np.full(shape, np.inf, np.float32), np.full(shape, -1, np.int64)
    for place, (those, candidates) in enumerate(found):
        distances[those, place], keys[those, place] = candidates
    every = ordered(distances.reshape(queries, -1), keys.reshape(queries, -1))
    return Candidates(every.distances[:, :count], every.keys[:, :count])


def ordered(distances: np.ndarray, keys: np.ndarray) -> Candidates:
    """Return distances float32 [B, n] and keys int64 [B, n], -1 for none, as candidates."""
    distances = np.where(keys < 0, np.float32(np.inf), distances)
    order = np.lexsort((keys, distances))
    return Candidates(np.take_along_axis(distances, order, 1), np.take_along_axis(keys, order, 1))


@contextmanager
def damage() -> Iterator[None]:
    """Raise GalleryDamaged for what FAISS raises for inconsistent numbers."""
    try:
        yield
    except (AssertionError, RuntimeError) as error:
        raise GalleryDamaged("the index is damaged: rebuild it with `spade-index index GALLERY`") from error
