"""Choose how an index is searched: the fewest probes and candidates with which its recall reaches the target."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import faiss
import numpy as np

from .descriptors import Blocks, evenly_spaced, joined_blocks
from .index import RECALL_AT, IndexDescription

RECALL_QUERIES = 256  # of the gallery's own images, where no queries are given
MOST_CANDIDATES = {"flat": 2, "fp16": 2, "sq8": 4, "pq": 20}  # times RECALL_AT; with components twice as many
MARGIN = 2  # standard errors by which the measured recall is to be above the target
MORE_PROBES = 1.25  # times those needed with all candidates, so that fewer candidates suffice
SCAN_BLOCK = 8192  # descriptors compared with the queries at a time


def tune(
    index: Any,
    description: IndexDescription,
    blocks: Callable[[], Blocks],
    queries: np.ndarray | None,
    say: Callable[[str], None],
) -> IndexDescription:
    """Choose the fewest probes, and then the fewest candidates, whose recall is above the target by MARGIN.

    Without queries float32 [q, D], some of the gallery's own images are searched for, each left out of its own
    results. If the target cannot be reached, all lists are probed, and the description has the recall measured then.
    """
    say("recall: the exact neighbours of some images")
    if given := queries is not None and len(queries) > 0:
        queries = np.ascontiguousarray(queries, np.float32)
        keys = np.full(len(queries), -2)  # neither an image's key nor FAISS's -1 for none
    else:
        keys, queries = evenly_spaced(blocks(), description.images, RECALL_QUERIES)
    exact = exact_neighbours(keys, queries, blocks(), RECALL_AT)
    most = MOST_CANDIDATES[description.storage] * RECALL_AT * (2 if description.kind == "pca-ivf" else 1)
    recall = _Recall(index, keys, queries, exact, min(most, description.images - 1))
    nlist, target = faiss.extract_index_ivf(index).nlist, description.target
    nprobe = min(math.ceil(MORE_PROBES * _fewest_probes(recall, nlist, target)), nlist)
    reached, safe = recall.measure(nprobe)
    least = min(RECALL_AT, recall.most)
    sufficient = np.flatnonzero(safe[least - 1 :] >= target)
    candidates = least + int(sufficient[0]) if len(sufficient) else recall.most
    found = replace(
        description,
        nlist=nlist,
        nprobe=nprobe,
        candidates=candidates,
        recall=float(reached[candidates - 1]),
        queries=len(queries) if given else 0,
    )
    say(str(found))
    return found


@dataclass(frozen=True)
class _Recall:
    """Measures the recall of an index with inverted lists."""

    index: Any
    keys: np.ndarray  # int64 [Q]: of the images that the queries are, or -2
    queries: np.ndarray  # float32 [Q, D]
    exact: np.ndarray  # int64 [Q, RECALL_AT]: keys of their nearest images
    most: int  # candidates

    def measure(self, nprobe: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the recall [most] with 1, 2, .. candidates, and the same less MARGIN standard errors."""
        faiss.extract_index_ivf(self.index).nprobe = nprobe
        found = _others(self.index.search(self.queries, self.most + 1)[1], self.keys)
        hits = np.stack([np.isin(row, of_query) for row, of_query in zip(found, self.exact, strict=True)])
        recall = hits.cumsum(1) / self.exact.shape[1]  # [Q, most]
        return recall.mean(0), recall.mean(0) - MARGIN * recall.std(0) / math.sqrt(len(recall))

    def suffices(self, nprobe: int, target: float) -> bool:
        """Return whether the recall with all candidates is above a target by MARGIN."""
        return self.measure(nprobe)[1][-1] >= target


def _fewest_probes(recall: _Recall, nlist: int, target: float) -> int:
    """Return the fewest probes that suffice, within a sixteenth; all lists if none do."""
    few, enough = 0, 1
    while enough < nlist and not recall.suffices(enough, target):
        few, enough = enough, min(2 * enough, nlist)
    while enough - few > max(1, enough // 16):
        middle = (few + enough) // 2
        few, enough = (few, middle) if recall.suffices(middle, target) else (middle, enough)
    return enough


def exact_neighbours(keys: np.ndarray, queries: np.ndarray, blocks: Blocks, count: int) -> np.ndarray:
    """Return the keys int64 [Q, count] of each query's nearest, itself excluded, by comparing it with all descriptors.

    `keys` int64 [Q] are the queries' own, `queries` float32 [Q, D].
    """
    distances: np.ndarray = np.empty((len(queries), 0), np.float32)
    nearest: np.ndarray = np.empty((len(queries), 0), np.int64)
    for block_keys, descriptors in joined_blocks(blocks, SCAN_BLOCK):
        d, place = faiss.knn(queries, descriptors, min(count + 1, len(descriptors)))
        distances, nearest = np.hstack([distances, d]), np.hstack([nearest, block_keys[place]])
        order = distances.argsort(1, kind="stable")[:, : count + 1]
        distances, nearest = (np.take_along_axis(values, order, 1) for values in (distances, nearest))
    return _others(nearest, keys)


def _others(found: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return what each query found [Q, n + 1] without itself, or else without the last: [Q, n]."""
    own = found == keys[:, None]
    own[~own.any(1), -1] = True
    return found[~own].reshape(len(found), -1)
