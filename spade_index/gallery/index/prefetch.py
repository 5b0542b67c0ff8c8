"""The inverted lists that a search is about to read, asked of the disk all at once.

FAISS maps an index's file into memory and comes upon its pages one by one. Where they are not in memory, the system
waits for the disk at each, or, if it reads far ahead of what is asked for, reads nearly all of the file for one query.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import faiss
import numpy as np

ID_BYTES = 8
WARMING = 4  # times as many lists as there are, that searches probe before


class ListsAhead:
    """Asks for every list once: from then on it is in memory, or there is no room to keep it there.

    To know the lists takes a twelfth of a search more, so once most have been read nothing is asked any more.
    """

    def __init__(self, path: Path, index: Any) -> None:
        """`index` was read from the file, which it maps: lists, perhaps of what linear transforms make of descriptors.

        Raises OSError.
        """
        self._fd = -1
        ivf: Any = faiss.extract_index_ivf(index)
        chain: Any = index.chain if isinstance(index, faiss.IndexPreTransform) else None
        self._ivf = ivf
        self._lists: Any = faiss.downcast_InvertedLists(ivf.invlists)
        places = range(chain.size()) if chain is not None else ()
        self._transforms: list[Any] = [faiss.downcast_VectorTransform(chain.at(place)) for place in places]
        self._asked = np.zeros(ivf.nlist, bool)
        self._probes = WARMING * ivf.nlist
        self._fd = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def ask(self, queries: np.ndarray, nprobe: int) -> None:
        """Ask for the lists that a search of queries float32 [B, D] reads; it does not wait for them."""
        if self._probes <= 0 or not hasattr(os, "posix_fadvise"):
            return
        self._probes -= nprobe * len(queries)
        for transform in self._transforms:
            queries = transform.apply(queries)
        _, probed = self._ivf.quantizer.search(queries, nprobe)
        wanted = np.zeros_like(self._asked)
        wanted[probed[probed >= 0]] = True
        for number in np.flatnonzero(wanted & ~self._asked).tolist():
            with suppress(OSError, OverflowError, TypeError):  # a damaged file's numbers; the search will say so
                start = int(self._lists.get_codes(number)) - int(self._lists.ptr)
                size = self._lists.list_size(number) * (self._lists.code_size + ID_BYTES)
                os.posix_fadvise(self._fd, start, size, os.POSIX_FADV_WILLNEED)
        self._asked |= wanted
