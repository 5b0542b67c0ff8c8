"""FAISS over pooled descriptors: proposes candidates; the gallery re-ranks them exactly."""

import errno
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from .errors import GalleryDamaged

EXACT_LIMIT = 20_000  # images up to which a flat scan is as fast as an inverted file
TRAINING_PER_LIST = 64  # descriptors per inverted list that k-means sees
RECALL_TARGET = 0.99
RECALL_AT = 50
RECALL_QUERIES = 64
# FAISS expands |x - y|^2 for batches of 20 and more, and small distances cancel; below that it takes differences.
BATCH = 16

Blocks = Iterator[tuple[np.ndarray, np.ndarray]]  # keys int64 [n], descriptors float32 [n, D]


@dataclass(frozen=True)
class IndexDescription:
    """What was built, and how well it finds."""

    kind: str  # "flat" (exact) or "ivf"
    images: int
    nlist: int = 0
    nprobe: int = 0
    recall: float = 1.0  # measured, of the RECALL_AT nearest

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "IndexDescription":
        """What `to_json` wrote."""
        return cls(**json.loads(text))


class Index:
    """A FAISS index of one snapshot, ids being image keys."""

    def __init__(self, path: Path, description: IndexDescription) -> None:
        """Raises GalleryDamaged if the file cannot be read."""
        try:
            self._index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise GalleryDamaged(f"{path}: damaged index: rebuild it with `spade-index index GALLERY`") from error
        self.description = description

    def search(self, queries: np.ndarray, count: int, without: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nearest `count` to queries float32 [B, D], leaving out keys `without` int64 [m].

        Returns squared distances float32 [B, count] and keys int64 [B, count], -1 where there are no more.
        """
        found = [
            self._search(queries[start : start + BATCH], count, without) for start in range(0, len(queries), BATCH)
        ]
        return np.concatenate([d for d, _ in found]), np.concatenate([k for _, k in found])

    def _search(self, queries: np.ndarray, count: int, without: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count = min(count, self.description.images)
        distances, keys = self._index.search(queries, count, params=_parameters(self.description, without))
        if self.description.kind == "ivf" and (keys < 0).any():  # the probed lists hold too few: probe all
            every = replace(self.description, nprobe=self.description.nlist)
            distances, keys = self._index.search(queries, count, params=_parameters(every, without))
        return distances, keys


def scan(queries: np.ndarray, keys: np.ndarray, block: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Exact search of a block float32 [n, D] with keys int64 [n]: distances and keys, as `Index.search`."""
    count = min(count, len(keys))
    found = [
        faiss.knn(queries[start : start + BATCH], block, count)  # squared L2
        for start in range(0, len(queries), BATCH)
    ]
    return np.concatenate([d for d, _ in found]), keys[np.concatenate([i for _, i in found])]


def build_index(path: Path, blocks: Callable[[], Blocks], images: int, dim: int) -> IndexDescription:
    """Build and write the index of all descriptors that `blocks` yields (it is called several times).

    Flat up to EXACT_LIMIT images, inverted lists beyond, `nprobe` raised until the measured recall reaches
    RECALL_TARGET.
    """
    if images <= EXACT_LIMIT:
        index: Any = faiss.IndexIDMap(faiss.IndexFlatL2(dim))
        description = IndexDescription("flat", images)
    else:
        nlist = int(4 * math.sqrt(images))
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(dim), dim, nlist)
        index.train(_sample(blocks(), images, nlist * TRAINING_PER_LIST))
        description = IndexDescription("ivf", images, nlist)
    for keys, descriptors in blocks():
        index.add_with_ids(np.ascontiguousarray(descriptors), keys)
    if description.kind == "ivf":
        description = _tune(index, description, blocks)
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:  # FAISS says of a full disk only that it could not write
        raise OSError(errno.EIO, f"FAISS cannot write the index ({str(error).splitlines()[-1]})", str(path)) from error
    return description


def _tune(index: Any, description: IndexDescription, blocks: Callable[[], Blocks]) -> IndexDescription:
    queries = _sample(blocks(), description.images, RECALL_QUERIES)
    index.nprobe = description.nlist
    exact = index.search(queries, RECALL_AT + 1)[1][:, 1:]  # the first is the query itself: it proves nothing
    nprobe, recall = 1, 0.0
    while recall < RECALL_TARGET and nprobe < description.nlist:
        nprobe = min(2 * nprobe, description.nlist)
        index.nprobe = nprobe
        found = index.search(queries, RECALL_AT + 1)[1]
        recall = float(np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, exact, strict=True)]))
    return replace(description, nprobe=nprobe, recall=recall)


def _sample(blocks: Blocks, images: int, wanted: int) -> np.ndarray:
    """Evenly spaced descriptors, float32 [about `wanted`, D]."""
    step = max(1, images // wanted)
    return np.concatenate([descriptors[-int(keys[0]) % step :: step] for keys, descriptors in blocks])


def _parameters(description: IndexDescription, without: np.ndarray) -> faiss.SearchParameters | None:
    arguments: dict[str, Any] = {}
    if len(without):
        arguments["sel"] = faiss.IDSelectorNot(faiss.IDSelectorBatch(without))
    if description.kind == "ivf":
        arguments["nprobe"] = description.nprobe
        return faiss.SearchParametersIVF(**arguments)
    return faiss.SearchParameters(**arguments) if arguments else None
