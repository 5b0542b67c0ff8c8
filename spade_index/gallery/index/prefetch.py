"""Prefetch the inverted lists that a search is about to read, all at once.

FAISS maps an index's file into memory and touches its pages one by one. For pages not in memory, the system waits for
the disk at each, or, with a long read-ahead, reads nearly the whole file for one query.
"""

import os
from contextlib import suppress
from typing import Any

import faiss
import numpy as np

from .mapped import MappedFile

ID_BYTES = 8
WARMING = 4  # prefetching ends after this many probes for each list


class ListPrefetcher:
    """Asks the system for each list once: from then on it is in memory, or there is no room for it.

    Finding the lists takes a twelfth of a search, so once most have been read, nothing is prefetched any more.
    """

    def __init__(self, file: MappedFile, index: Any) -> None:
        """Prefetch for `index`, which was read from the file: inverted lists, perhaps behind linear transforms."""
        self._file = file
        ivf: Any = faiss.extract_index_ivf(index)
        chain: Any = index.chain if isinstance(index, faiss.IndexPreTransform) else None
        self._ivf = ivf
        self._lists: Any = faiss.downcast_InvertedLists(ivf.invlists)
        places = range(chain.size()) if chain is not None else ()
        self._transforms: list[Any] = [faiss.downcast_VectorTransform(chain.at(place)) for place in places]
        self._prefetched = np.zeros(ivf.nlist, bool)
        self._probes = WARMING * ivf.nlist

    def prefetch(self, queries: np.ndarray, nprobe: int) -> None:
        """Prefetch the lists that a search of queries float32 [B, D] reads, without waiting for them."""
        if self._probes <= 0 or not hasattr(os, "posix_fadvise"):
            return
        self._probes -= nprobe * len(queries)
        for transform in self._transforms:
            queries = transform.apply(queries)
        _, probed = self._ivf.quantizer.search(queries, nprobe)
        wanted = np.zeros_like(self._prefetched)
        wanted[probed[probed >= 0]] = True
        for number in np.flatnonzero(wanted & ~self._prefetched).tolist():
            with suppress(OSError, OverflowError, TypeError):  # numbers of a damaged file; the search will raise
                start = int(self._lists.get_codes(number)) - int(self._lists.ptr)
                size = self._lists.list_size(number) * (self._lists.code_size + ID_BYTES)
                os.posix_fadvise(self._file.fd, start, size, os.POSIX_FADV_WILLNEED)
        self._prefetched |= wanted
