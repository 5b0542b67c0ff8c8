"""An object of a store, read by blocks: those in the cache from there, others by ranges, each compared with its sum."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager

import h5py
import numpy as np

from spade_index.gallery.store.hdf5 import opened

from .cache import Cache
from .failures import Damaged
from .files import NamedFile
from .store import PART, Remote, at_once
from .sums import BLOCK, MOST_BYTES, Sums

AT_ONCE = 16  # requests that wait for the store at a time
TRIES = 2  # of blocks that come otherwise than they were pushed

Run = tuple[int, int]  # the first of some consecutive blocks, and the one after the last


class RemoteFile:
    """An object that never changes, as a `RowsFile`."""

    def __init__(self, remote: Remote, cache: Cache, file: NamedFile) -> None:
        """Read its sums. Raises RemoteError."""
        self._remote = remote
        self._cache = cache
        self._file = file
        self.path = f"{remote.location}/{file.object}"
        self._sums = self._read_sums()
        self.size = self._sums.size
        self._found = np.zeros(-(-self.size // BLOCK), bool)  # blocks that were once in the cache

    def read(self, out: memoryview, offset: int) -> bool:
        """Fill `out` from a byte offset; return False if the file ends before. Raises RemoteError."""
        if offset + len(out) > self.size:
            return False
        first, end = offset // BLOCK, -(-(offset + len(out)) // BLOCK)
        data, missing = self._cached(first, end)
        for lot in (lot for run in _runs(missing) for lot in _lots(run)):
            (found,) = self._fetched([lot])
            place = (lot[0] - first) * BLOCK
            data[place : place + len(found)] = found
        start = offset - first * BLOCK
        out[:] = data[start : start + len(out)]
        return True

    def missing(self, ranges: Iterable[tuple[int, int]]) -> list[Run]:
        """Return runs of blocks, of those with bytes in these ranges, that were not found in the cache yet."""
        wanted = {
            block
            for offset, length in ranges
            if offset >= 0 and offset + length <= self.size
            for block in range(offset // BLOCK, -(-(offset + length) // BLOCK))
            if not self._found[block]
        }
        lots = [lot for run in _runs(sorted(wanted)) for lot in _lots(run)]
        return [run for lot in lots for run in _runs(self._cached(*lot)[1])]

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Read the blocks of these ranges into the cache, several at a time. Raises RemoteError."""
        bring([(self, self.missing(ranges))])

    def bring(self, runs: Sequence[Run]) -> None:
        """Read blocks into the cache. Raises RemoteError."""
        self._fetched(runs)

    def opened(self) -> AbstractContextManager[h5py.File]:
        """Open it with HDF5. Raises RemoteError, and what h5py raises."""
        return opened(self)

    def _read_sums(self) -> Sums:
        digest = self._file.digest
        try:
            return Sums(self._cache.sums(digest), self._file)
        except ValueError:
            pass  # it is not there, or was damaged since
        found = self._remote.small(self._file.sums, MOST_BYTES)
        if found is None:
            raise Damaged(f"{self._remote.location}/{self._file.sums}: is missing: push the gallery again")
        try:
            sums = Sums(found[0], self._file)
        except ValueError as error:
            raise self._altered(self._file.sums) from error
        self._cache.keep_sums(digest, found[0])
        return sums

    def _cached(self, first: int, end: int) -> tuple[memoryview, list[int]]:
        """Return the bytes of blocks, as far as they are in the cache, and the blocks that are not."""
        start = first * BLOCK
        data = memoryview(np.empty(min(end * BLOCK, self.size) - start, np.uint8)).cast("B")
        self._cache.read(self._file.digest, data, start)
        missing = []
        for block in range(first, end):
            place = block * BLOCK - start
            self._found[block] = self._sums.matches(block, data[place : place + self._sums.length(block)])
            if not self._found[block]:
                missing.append(block)
        return data, missing

    def _fetched(self, runs: Sequence[Run]) -> list[memoryview]:
        """Read blocks from the store, put them into the cache, and return each run's bytes. Raises RemoteError."""
        found: dict[Run, memoryview] = {}
        for _ in range(TRIES):
            left = [run for run in runs if run not in found]
            ranges = [(first * BLOCK, min(end * BLOCK, self.size) - first * BLOCK) for first, end in left]
            answers = self._remote.ranges(self._file.object, ranges)
            for run, (start, length), data in zip(left, ranges, answers, strict=True):
                if len(data) == length and self._all_match(run, data):
                    self._cache.write(self._file.digest, data, start)
                    self._found[slice(*run)] = True
                    found[run] = data
            if len(found) == len(runs):
                return [found[run] for run in runs]
        raise self._altered(self._file.object)

    def _all_match(self, run: Run, data: memoryview) -> bool:
        places = range(0, len(data), BLOCK)
        return all(map(self._sums.matches, range(*run), (data[place : place + BLOCK] for place in places)))

    def _altered(self, name: str) -> Damaged:
        return Damaged(f"{self._remote.location}/{name}: is not what was pushed: delete it and push the gallery again")


def bring(wanted: Sequence[tuple[RemoteFile, Sequence[Run]]]) -> None:
    """Read blocks of several objects into the cache, several at a time. Raises RemoteError."""
    requests = [(file, lot) for file, runs in wanted for lot in _together(runs)]
    at_once(lambda request: request[0].bring(request[1]), requests, AT_ONCE)


def _runs(blocks: Sequence[int]) -> list[Run]:
    """Return ascending blocks as runs of consecutive ones."""
    if not blocks:
        return []
    places = np.array(blocks, np.int64)
    starts = np.flatnonzero(np.diff(places, prepend=-2) != 1)
    ends = [*(starts[1:] - 1).tolist(), len(blocks) - 1]
    return [(int(places[start]), int(places[end]) + 1) for start, end in zip(starts.tolist(), ends, strict=True)]


def _lots(run: Run) -> list[Run]:
    """Cut a run of blocks into those of one request each."""
    most = PART // BLOCK
    return [(first, min(first + most, run[1])) for first in range(*run, most)]


def _together(runs: Sequence[Run]) -> list[list[Run]]:
    """Return runs in groups of about one request's bytes, which are asked for at once."""
    groups: list[list[Run]] = []
    room = 0
    for run in runs:
        if (length := run[1] - run[0]) > room:
            groups.append([])
            room = PART // BLOCK
        groups[-1].append(run)
        room -= length
    return groups
