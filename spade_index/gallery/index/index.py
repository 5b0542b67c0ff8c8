"""A FAISS index over pooled descriptors. It proposes candidates, which `search` ranks exactly."""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from spade_index.errors import GalleryDamaged, StorageError
from spade_index.exact import read_json
from spade_index.gallery.catalog.check import REMEDY
from spade_index.gallery.store.files import name_of
from spade_index.gallery.store.hdf5 import NOT_DAMAGE
from spade_index.settings import STORAGES, IndexSettings
from spade_index.wording import number_of

from .lists import InvertedLists, Scan, damage, scan_here
from .mapped import MappedFile

RECALL_AT = 50
# FAISS computes |x|^2 - 2xy + |y|^2 for batches of 20 and more, where small distances cancel; below, differences.
BATCH = 16


@dataclass(frozen=True)
class IndexDescription:
    """Settings that an index was built with, and its measured recall."""

    kind: str  # "flat" (exact), "ivf", or "pca-ivf" (of principal components)
    images: int
    nlist: int = 0
    nprobe: int = 0
    recall: float = 1.0  # measured, of the RECALL_AT nearest after re-ranking
    storage: str = "flat"
    dimensions: int = 0
    candidates: int = RECALL_AT  # proposed to reach that recall
    target: float = IndexSettings.recall
    memory: int = IndexSettings.memory  # bytes that building was allowed
    queries: int = (
        0  # given ones that the recall was measured with; 0: images of the gallery, each left out of its results
    )
    descriptors: str | None = None  # digest of the file of descriptors beside the index

    def to_json(self) -> str:
        """Return this as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "IndexDescription":
        """Read what `to_json` wrote. Raises GalleryDamaged."""
        try:
            description = cls(**read_json(text))
        except (RecursionError, TypeError, ValueError) as error:
            raise GalleryDamaged(f"the index's description cannot be read ({error}); {REMEDY}") from error
        counts = ("images", "nlist", "nprobe", "dimensions", "candidates", "memory", "queries")
        known = (
            description.kind in ("flat", "ivf", "pca-ivf")
            and isinstance(description.descriptors, str | None)
            and all(type(value := getattr(description, name)) is int and 0 <= value < 2**62 for name in counts)
            and all(
                type(value) in (int, float) and 0 <= value <= 1 for value in (description.recall, description.target)
            )
            and description.storage in STORAGES
        )
        if not known:
            raise GalleryDamaged(f"the index's description is not one of an index; {REMEDY}")
        return description

    def settings(self) -> IndexSettings:
        """Return the settings to build the next index with."""
        return IndexSettings(self.storage, self.dimensions, self.target, self.memory)

    def count(self, k: int) -> int:
        """Return the number of candidates to ask for to find the k nearest; at least that of the measured recall.

        A smaller k needs no fewer: inexact storage may rank the nearest image anywhere among them.
        """
        if self.exact:
            return k
        return math.ceil(self.candidates * max(1, k / RECALL_AT))

    @property
    def exact(self) -> bool:
        """Return whether the distances that the index returns are those of the descriptors."""
        return self.kind == "flat" or (self.kind == "ivf" and self.storage == "flat")

    def __str__(self) -> str:
        if self.kind == "flat":
            return f"flat index of {number_of(self.images, 'image')}, exact"
        of = f"{self.storage} of {self.dimensions} components" if self.kind == "pca-ivf" else self.storage
        return (
            f"ivf index of {number_of(self.images, 'image')}, {of}, nlist {self.nlist}, nprobe {self.nprobe}, "
            f"{self.candidates} candidates: recall@{RECALL_AT} {self.recall:.4f}"
        )


class Index:
    """A FAISS index of one snapshot, with image keys as ids. Inverted lists stay in their file, mapped into memory."""

    def __init__(self, path: Path, description: IndexDescription) -> None:
        """Open the file. Raises GalleryDamaged if it cannot be read, StorageError."""
        self._file = MappedFile(path)
        try:
            flags = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE  # the table may be larger than the lists
            opened = name_of(self._file.fd, path)  # what has the path may be another file by now
            index: Any = faiss.read_index(opened, 0 if description.kind == "flat" else flags)
        except RuntimeError as error:  # FAISS tells the system's reason in words
            for reason in map(os.strerror, NOT_DAMAGE):
                if str(error).endswith((f": {reason}", f"({reason})")):
                    raise StorageError(f"{path}: cannot be read ({reason})") from error
            raise GalleryDamaged(f"{path}: damaged index: rebuild it with `spade-index index GALLERY`") from error
        except MemoryError as error:
            raise GalleryDamaged(
                f"{path}: damaged index, or too little memory for it: rebuild it with `spade-index index GALLERY`"
            ) from error
        self.description = description
        self._index = index
        self._require_own_lists(path)
        self.lists = None if description.kind == "flat" else InvertedLists(self._file, index)

    def _require_own_lists(self, path: Path) -> None:
        """Raise GalleryDamaged if the kind is another, or if the index says that its lists are in another file."""
        ivf: Any = faiss.try_extract_index_ivf(self._index)
        lists: Any = None if ivf is None else faiss.downcast_InvertedLists(ivf.invlists)
        elsewhere = isinstance(lists, faiss.OnDiskInvertedLists) and lists.filename != ""  # "": its own file, mapped
        if elsewhere or (ivf is None) != (self.description.kind == "flat"):
            raise GalleryDamaged(
                f"{path}: not an index that was built here: rebuild it with `spade-index index GALLERY`"
            )

    def search(
        self, queries: np.ndarray, count: int, without: np.ndarray, scan: Scan = scan_here
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the `count` nearest to each of queries float32 [B, D], leaving out keys `without` int64 [m].

        Inverted lists are scanned by `scan`. Returns squared distances float32 [B, count], as exact as the storage, and
        keys int64 [B, count], -1 where there are no more. Raises GalleryDamaged, and what `scan` raises.
        """
        count = min(count, self.description.images)
        if self.lists is not None:
            return self._in_lists(self.lists, queries, count, without, scan)
        selected = {"sel": faiss.IDSelectorNot(faiss.IDSelectorBatch(without))} if len(without) else {}
        with damage():
            found = [
                self._index.search(some, count, params=faiss.SearchParameters(**selected)) for some in _batches(queries)
            ]
        return np.concatenate([d for d, _ in found]), np.concatenate([k for _, k in found])

    def _in_lists(
        self, lists: InvertedLists, queries: np.ndarray, count: int, without: np.ndarray, scan: Scan
    ) -> tuple[np.ndarray, np.ndarray]:
        with damage():
            queries = np.concatenate([lists.transformed(some) for some in _batches(queries)])

        def nearest(queries: np.ndarray, probes: int) -> tuple[np.ndarray, np.ndarray]:
            found = list(scan(lists, (lists.probes(some, probes) for some in _batches(queries)), count, without))
            return np.concatenate([d for d, _ in found]), np.concatenate([k for _, k in found])

        distances, keys = nearest(queries, self.description.nprobe)
        few = (keys < 0).any(1)
        if few.any():  # the probed lists hold too few images: probe all lists
            distances[few], keys[few] = nearest(queries[few], self.description.nlist)
        return distances, keys


def _batches(queries: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(queries), BATCH):
        yield queries[start : start + BATCH]


def scan(queries: np.ndarray, keys: np.ndarray, block: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Search a block of descriptors float32 [n, D] with keys int64 [n] exactly; return what `Index.search` does."""
    count = min(count, len(keys))
    found = [faiss.knn(some, block, count) for some in _batches(queries)]  # squared L2
    return np.concatenate([d for d, _ in found]), keys[np.concatenate([i for _, i in found])]
