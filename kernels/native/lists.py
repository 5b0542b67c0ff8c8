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
        self, query: np.ndarray, lists: np.ndarray, count: int, without: np.ndarray, threads: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return squared distances float32 [n] and keys int64 [n] of the nearest codes, in ascending order of both.

        n is `count`, or fewer where there are fewer.

        Args:
            query: float32 [d].
            lists: LIST [lists], those that are scanned.
            count: how many are wanted.
            without: int64 [m], ascending: keys that are left out.
            threads: that share the lists, where they are long.
        """
        query, without = np.ascontiguousarray(query, np.float32), np.ascontiguousarray(without, np.int64)
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
        spread(scan, shares, len(shares))
        every = np.concatenate(found) if found else np.empty(0, c.PROPOSED)
        order = np.lexsort((every["key"], every["distance"]))[:count]
        return every["distance"][order], every["key"][order]


def _shares(lists: np.ndarray, number: int) -> Sequence[np.ndarray]:
    """Divide lists into shares of about as many codes each."""
    if number == 1:
        return [lists]
    ends = np.searchsorted(lists["size"].cumsum(), lists["size"].sum() * np.arange(1, number) / number)
    return np.split(lists, ends)
