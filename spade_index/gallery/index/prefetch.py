"""Prefetch the inverted lists that a search is about to read, all at once.

FAISS maps an index's file into memory and touches its pages one by one. For pages not in memory, the system waits for
the disk at each, or, with a long read-ahead, reads nearly the whole file for one query.
"""

import os
from contextlib import suppress
from typing import Any

import numpy as np

from .mapped import MappedFile

ID_BYTES = 8
WARMING = 4  # prefetching ends after this many probes for each list


class ListPrefetcher:
    """Asks the system for each list once: from then on it is in memory, or there is no room for it.

    Once most have been read, nothing is prefetched any more.
    """

    def __init__(self, file: MappedFile, ivf: Any, lists: Any) -> None:
        """Prefetch for the lists of `ivf`, which was read from the file."""
        self._file = file
        self._lists = lists
        self._prefetched = np.zeros(ivf.nlist, bool)
        self._probes = WARMING * ivf.nlist

    def prefetch(self, probed: np.ndarray) -> None:
        """Prefetch the lists that a search reads, int64 [B, n], -1 for none, without waiting for them."""
        if self._probes <= 0 or not hasattr(os, "posix_fadvise"):
            return
        self._probes -= probed.size
        wanted = np.zeros_like(self._prefetched)
        wanted[probed[probed >= 0]] = True
        for number in np.flatnonzero(wanted & ~self._prefetched).tolist():
            with suppress(OSError, OverflowError, TypeError):  # numbers of a damaged file; the search will raise
                start = int(self._lists.get_codes(number)) - int(self._lists.ptr)
                size = self._lists.list_size(number) * (self._lists.code_size + ID_BYTES)
                os.posix_fadvise(self._file.fd, start, size, os.POSIX_FADV_WILLNEED)
        self._prefetched |= wanted
