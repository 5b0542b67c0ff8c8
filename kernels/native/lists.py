"""Scan inverted lists of descriptors whose values are bytes, as FAISS does, with memory fetched ahead."""

from collections.abc import Sequence

import numpy as np

from ..threads import spread
from . import library as c

LIST = c.LIST
LEAST_CODES = 1 << 14  # that are worth another thread


class ByteLists:
    """Inverted lists in memory: a value is lowest + step * code, plus that of its list's centre.

    Lists are described as LIST. The caller keeps what they point to.
    """

    def __init__(self, lowest: np.ndarray, step: np.ndarray, instructions: str | None = None) -> None:
        """Take the lowest value and the step of each dimension, float32 [d]."""
        self._instructions = c.number(instructions)
        self._dim = len(lowest)
        self._padded = -(-self._dim // c.SIDE) * c.SIDE
        self._lowest, self._step = np.zeros((2, self._padded), np.float32)
        self._lowest[: self._dim], self._step[: self._dim] = lowest, step
        self._how = c.ListCodes(self._lowest.ctypes.data, self._step.ctypes.data, self._dim)

    def nearest(
        self, queries: np.ndarray, lists: Sequence[np.ndarray], count: int, without: np.ndarray, threads: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return squared distances float32 [B, count] and keys int64 [B, count] of the nearest codes, ascending.

        Where there are fewer, distances are infinite and keys -1.

        Args:
            queries: float32 [B, d].
            lists: of each query LIST [n], those that are scanned.
            count: how many are wanted.
            without: int64 [m], ascending: keys that are left out.
            threads: that share the queries, or where these are few the lists of each.
        """
        queries, without = np.ascontiguousarray(queries, np.float32), np.ascontiguousarray(without, np.int64)
        distances = np.full((len(queries), count), np.inf, np.float32)
        keys = np.full((len(queries), count), -1, np.int64)
        many = threads > 1 and len(queries) >= threads

        def search(place: int) -> None:
            """Write what is nearest to a query."""
            found = self._nearest(queries[place], lists[place], count, without, 1 if many else threads)
            distances[place, : len(found)], keys[place, : len(found)] = found["distance"], found["key"]

        spread(search, range(len(queries)), threads if many else 1)
        return distances, keys

    def _nearest(
        self, query: np.ndarray, lists: np.ndarray, count: int, without: np.ndarray, threads: int
    ) -> np.ndarray:
        """Return what is nearest to a query, PROPOSED [n], n at most `count`, in ascending order."""
        found: list[np.ndarray] = []

        def scan(some: np.ndarray) -> None:
            """Add the nearest of some of the lists."""
            proposed, room = np.empty(count, c.PROPOSED), np.empty(self._padded, np.float32)
            number = c.library().spade_nearest_in_lists(
                *(self._instructions, some.ctypes.data, len(some), self._how, query.ctypes.data),
                *(without.ctypes.data, len(without), count, room.ctypes.data, proposed.ctypes.data),
            )
            found.append(proposed[:number])

        shares = _shares(lists, max(1, min(threads, int(lists["size"].sum()) // LEAST_CODES)))
        spread(scan, shares, threads if len(shares) > 1 else 1)
        every = np.concatenate(found)
        return every[np.lexsort((every["key"], every["distance"]))[:count]]


def _shares(lists: np.ndarray, number: int) -> Sequence[np.ndarray]:
    """Divide lists into shares of about as many codes each."""
    if number == 1:
        return [lists]
    ends = np.searchsorted(lists["size"].cumsum(), lists["size"].sum() * np.arange(1, number) / number)
    return np.split(lists, ends)
