"""Peers of the gallery's index, on the same descriptors, which they hold in memory.

Each is built and searched in a process of its own, one query at a time, as ours. A peer with a search width gets the
least one with which the recall of the tuning queries exceeds, by a standard error, the recall that our index is built
for; ours is built to exceed it by two. A further contender is our index over all values of a descriptor.
"""

import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import faiss
import numpy as np

from spade_index.benchmarks.growth_measure import WARM_UP, K, index_path, latency, recalls, squared, test_of, tuning_of
from spade_index.benchmarks.harness import Figures, timed
from spade_index.benchmarks.processes import above, resident
from spade_index.gallery.index.descriptors import Blocks, Descriptors, descriptors_file
from spade_index.settings import IndexSettings

WIDTHS = (50, 70, 100, 140, 200, 280, 400, 560, 800, 1100, 1600)  # of the search in a graph
LINKS = 24  # M: a node's links in a graph, twice as many at the bottom
BUILD_WIDTH = 200
WITHOUT = "no-components"


@dataclass(frozen=True)
class Built:
    """A peer's index and its search."""

    search: Callable[[np.ndarray], np.ndarray]  # query float32 [1, D] -> keys int64 [K]
    widen: Callable[[int], None] | None  # sets the width of the search
    text: str


@dataclass(frozen=True)
class Peer:
    """One way to find the nearest descriptors."""

    key: str  # as --peers takes it
    title: str
    build: Callable[[Blocks, int, int], Built]  # descriptors, their number, D
    needs: Callable[[int, int], float]  # largest bytes of memory for a number of descriptors and D
    package: str | None = None

    def missing(self) -> str | None:
        """Return why it cannot be run."""
        return f"{self.package} is not installed" if self.package and find_spec(self.package) is None else None


def _flat(blocks: Blocks, images: int, dim: int) -> Built:
    index = faiss.IndexFlatL2(dim)
    keys = np.empty(images, np.int64)
    for of, descriptors in blocks:
        keys[index.ntotal :][: len(of)] = of
        index.add(descriptors)
    return Built(lambda query: keys[index.search(query, K)[1][0]], None, "IndexFlatL2")


def _hnswlib(blocks: Blocks, images: int, dim: int) -> Built:
    import hnswlib

    index = hnswlib.Index("l2", dim)
    index.init_index(images, M=LINKS, ef_construction=BUILD_WIDTH, random_seed=0)
    for keys, descriptors in blocks:
        index.add_items(descriptors, keys)
    return Built(lambda query: index.knn_query(query, K)[0][0].astype(np.int64), index.set_ef, f"M {LINKS}")


def _usearch(blocks: Blocks, images: int, dim: int) -> Built:
    from usearch.index import Index

    index = Index(
        ndim=dim, metric="l2sq", dtype="f32", connectivity=LINKS, expansion_add=BUILD_WIDTH, expansion_search=K
    )
    for keys, descriptors in blocks:
        index.add(keys.astype(np.uint64), descriptors)

    def widen(width: int) -> None:
        index.expansion_search = width

    return Built(lambda query: index.search(query[0], K).keys.astype(np.int64), widen, f"connectivity {LINKS}")


def _autofaiss(blocks: Blocks, images: int, dim: int) -> Built:
    import autofaiss

    keys, descriptors = (np.concatenate(part) for part in zip(*blocks, strict=True))
    size = 4 * images * dim
    index, chosen = autofaiss.build_index(
        descriptors,
        save_on_disk=False,
        metric_type="l2",
        max_index_memory_usage=f"{max(64, 2 * size >> 20)}MB",
        current_memory_available=f"{max(256, 4 * size >> 20)}MB",
        nb_cores=os.cpu_count(),
        verbose=40,
    )
    text = f"{chosen['index_key']}, {chosen['index_param']}"
    return Built(lambda query: keys[index.search(query, K)[1][0]], None, text)


PEERS = {
    peer.key: peer
    for peer in (
        Peer("flat", "FAISS flat, in memory", _flat, lambda n, d: 8.0 * n * d),
        Peer("hnswlib", "hnswlib", _hnswlib, lambda n, d: n * (4.4 * d + 12 * LINKS), "hnswlib"),
        Peer("usearch", "usearch", _usearch, lambda n, d: n * (4.8 * d + 20 * LINKS), "usearch"),
        Peer("autofaiss", "autofaiss", _autofaiss, lambda n, d: 14.0 * n * d, "autofaiss"),
    )
}
TITLES = {key: peer.title for key, peer in PEERS.items()} | {WITHOUT: "ours, all of a descriptor's values"}


def run(key: str, gallery: Path, queries: Path, limits: Path) -> Figures:
    """Build a peer, choose its search width, and measure it; runs in a process."""
    descriptors = Descriptors(descriptors_file(index_path(gallery)[0]))
    asked, limit = np.load(queries), np.load(limits)
    peer = PEERS[key]
    if peer.package:
        import_module(peer.package)  # before memory is measured
    before = resident()
    built, seconds = timed(partial(peer.build, descriptors.blocks(), len(descriptors.keys), asked.shape[1]))
    width = _widened(built, tuning_of(asked), tuning_of(limit), descriptors)
    for query in tuning_of(asked)[:WARM_UP]:
        built.search(query[None])
    found, times = zip(*(timed(partial(built.search, query[None])) for query in test_of(asked)), strict=True)
    memory = above(before)
    return {
        "text": built.text + (f", search width {width}" if width else ""),
        "seconds": seconds,
        **latency(times),
        "recall": float(_recalls(test_of(asked), found, test_of(limit), descriptors).mean()),
        "resident": memory,
    }


def _widened(built: Built, queries: np.ndarray, limits: np.ndarray, descriptors: Descriptors) -> int | None:
    """Set and return the least of WIDTHS that reaches the recall, else the largest."""
    if built.widen is None:
        return None
    for width in WIDTHS:
        built.widen(width)
        shares = _recalls(queries, [built.search(query[None]) for query in queries], limits, descriptors)
        if shares.mean() - shares.std() / math.sqrt(len(shares)) >= IndexSettings.recall:
            break
    return width


def _recalls(
    queries: np.ndarray, found: Sequence[np.ndarray], limits: np.ndarray, descriptors: Descriptors
) -> np.ndarray:
    """Return the recall of each query's keys [K] by the distances of the stored descriptors."""
    distances = np.full((len(queries), K), np.inf)
    for row, (query, keys) in enumerate(zip(queries, found, strict=True)):
        there = np.unique(keys[keys >= 0])
        distances[row, : len(there)] = squared(query, descriptors.at(descriptors.places(there)))
    return recalls(distances, limits)


def make_view(gallery: Path) -> Path:
    """Make a gallery that shares the shards of `gallery`, for an index of its own; return its path."""
    view = gallery.with_name("gallery-no-components")
    shutil.rmtree(view, ignore_errors=True)
    view.mkdir()
    (view / "shards").symlink_to((gallery / "shards").resolve())
    for file in gallery.glob("catalog.*"):
        shutil.copy(file, view)
    return view
