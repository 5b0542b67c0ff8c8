"""Scan the lists of an index of 8 bits (`sq8`) by compiled functions, where they are at hand: see `kernels.native`."""

from typing import Any

import faiss
import numpy as np

from spade_index.gallery.store.native import native_lists

from .prefetch import ID_BYTES

STEPS = 255  # FAISS divides a dimension's range into so many, and decodes to their middles


class ByteLists:
    """The lists of a FAISS index, scanned without FAISS: the same codes, distances that are rounded otherwise."""

    def __init__(self, native: Any, index: Any, lists: Any) -> None:
        """Take an index that `byte_lists` accepts, and its lists."""
        low, extent = faiss.vector_to_array(index.sq.trained).reshape(2, index.d)
        step = extent / np.float32(STEPS)
        self._native = native.ByteLists(low + step / 2, step)
        quantizer: Any = faiss.downcast_index(index.quantizer)
        centres = faiss.rev_swig_ptr(quantizer.get_xb(), index.nlist * index.d)
        self._centres = centres.reshape(index.nlist, index.d)  # in the index's own memory
        self._lists = lists
        self._found = np.zeros(index.nlist, native.LIST)  # those that were scanned before
        self._found["size"] = -1

    def place(self, lists: np.ndarray) -> None:
        """Find lists int64, -1 for none. Raises RuntimeError, as FAISS does, if one is outside of the index's file."""
        wanted = np.unique(lists[lists >= 0])
        for number in wanted[self._found["size"][wanted] < 0].tolist():
            self._found[number] = self._place(number)

    def nearest(
        self, queries: np.ndarray, lists: np.ndarray, count: int, without: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what is nearest to queries float32 [B, d] in lists int64 [B, n] each, -1 for none: `place` them first.

        Distances and keys ascend, [B, count], infinite and -1 where there are no more. `without` int64 ascends.
        """
        scanned = [self._found[of_query[of_query >= 0]] for of_query in lists]
        found: tuple[np.ndarray, np.ndarray] = self._native.nearest(
            queries, scanned, count, without, faiss.omp_get_max_threads()
        )
        return found

    def _place(self, number: int) -> tuple[int, int, int, int]:
        """Return a list as `kernels.native.lists.LIST` has it."""
        size = int(self._lists.list_size(number))
        if not size:
            return 0, 0, 0, self._centres[number].ctypes.data
        codes, keys = int(self._lists.get_codes(number)), int(self._lists.get_ids(number))
        if isinstance(self._lists, faiss.OnDiskInvertedLists):
            first, end = int(self._lists.ptr), int(self._lists.ptr) + self._lists.totsize
            for start, bytes_of_one in ((codes, self._lists.code_size), (keys, ID_BYTES)):
                if not first <= start <= start + size * bytes_of_one <= end:
                    raise RuntimeError("a list is outside of its file")
        return codes, keys, size, self._centres[number].ctypes.data


def byte_lists(ivf: Any, lists: Any) -> ByteLists | None:
    """Return what scans the lists of an index; None if FAISS must: its codes are others, or nothing was compiled."""
    index = faiss.downcast_index(ivf)
    if not isinstance(index, faiss.IndexIVFScalarQuantizer) or (native := native_lists()) is None:
        return None
    flat = isinstance(faiss.downcast_index(index.quantizer), faiss.IndexFlat)
    known = (faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2, True)
    same = (index.sq.qtype, index.metric_type, bool(index.by_residual)) == known
    fits = index.sq.trained.size() == 2 * index.d and index.code_size == index.d
    return ByteLists(native, index, lists) if flat and same and fits else None
