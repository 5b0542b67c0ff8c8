"""Build, verify and measure an index, and its peers, at one size. Public functions run in a process of their own.

`queries` is a file of descriptors float32 [held out, D]: the first third tunes, the rest tests. A peer holds the same
descriptors in memory and is searched for one query at a time, as ours is. A peer with a search width gets the least one
with which the recall of the tuning queries exceeds, by a standard error, the recall that our index is built for; ours
is built to exceed it by two.
"""

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TypeVar

import faiss
import numpy as np

from spade_index.gallery import CATALOG, Gallery
from spade_index.gallery.index.descriptors import Blocks, Descriptors, descriptors_file
from spade_index.gallery.index.search import SPARE, Neighbour
from spade_index.gallery.index.tune import exact_neighbours
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.settings import IndexSettings

from .harness import Figures, WrongResult, medians, timed
from .processes import above, forget, read_from_disk, resident

T = TypeVar("T")

K = 50
TIED = 1 + 1e-6  # relative: an image as near as the K-th neighbour is as good
VERIFIED = 20  # queries
WARM_UP = 50
COLD = 10  # queries for which the system's cache is emptied
WIDTHS = (50, 70, 100, 140, 200, 280, 400, 560, 800, 1100, 1600)  # of the search in a graph
LINKS = 24  # M: a node's links in a graph, twice as many at the bottom
BUILD_WIDTH = 200


def tuning_of(queries: np.ndarray) -> np.ndarray:
    """Return the queries that indexes are tuned on."""
    return queries[: len(queries) // 3]


def test_of(queries: np.ndarray) -> np.ndarray:
    """Return the queries that are measured."""
    return queries[len(queries) // 3 :]


def index_file(gallery: Path) -> Path:
    """Return the file of the latest index."""
    with Gallery(gallery) as opened:
        row = opened.catalog.index(opened.snapshot)
    assert row is not None
    return gallery / "index" / row.file


def build(gallery: Path, queries: Path, storage: str) -> Figures:
    """Build the index as `spade-index index --queries` does."""
    with GalleryWriter(gallery) as writer:
        settings, tuning = IndexSettings(storage), tuning_of(np.load(queries))
        description, seconds = timed(partial(writer.build_index, settings, tuning))
    return {"seconds": seconds, "text": str(description), **asdict(description)}


def check(gallery: Path, queries: Path, limits: Path) -> Figures:
    """Verify neighbours, and save the distances of the exact K-th ones, float64 [held out], to `limits`."""
    asked = np.load(queries)
    np.save(limits, _exact(Descriptors(descriptors_file(index_file(gallery))), asked)[:, K - 1])
    tests = test_of(asked)[:VERIFIED]
    with Gallery(gallery) as opened:
        for query in tests:
            verify(opened, query, opened.nearest(query[None], K)[0])
    return {"verified_queries": len(tests)}


def _exact(descriptors: Descriptors, queries: np.ndarray) -> np.ndarray:
    """Return squared distances of the K nearest, float64 [Q, K]. FAISS rounds its own, so more are compared."""
    count = min(K + SPARE, len(descriptors.keys) - 1)
    keys = exact_neighbours(np.full(len(queries), -2), queries, descriptors.blocks(), count)
    found = [squared(query, descriptors.at(descriptors.places(of))) for query, of in zip(queries, keys, strict=True)]
    return np.sort(np.stack(found), 1)[:, :K]


def squared(query: np.ndarray, descriptors: np.ndarray) -> np.ndarray:
    """Return the squared distances of a query [D] to descriptors [n, D], float64 [n]."""
    return ((descriptors.astype(np.float64) - query) ** 2).sum(1)


def recalls(distances: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Return the share of distances [Q, K] that are at most that of the K-th exact neighbour, limits [Q]: [Q]."""
    return (distances <= limits[:, None] * TIED).sum(1) / K


def verify(gallery: Gallery, query: np.ndarray, found: Sequence[Neighbour]) -> None:
    """Raise WrongResult unless K neighbours of a query [D] are distinct, ascend, and have their exact distances."""
    stored = gallery.pooled([gallery.image(neighbour.id) for neighbour in found])
    distances = np.array([neighbour.distance for neighbour in found])
    if len({neighbour.id for neighbour in found}) != K:
        raise WrongResult(f"{gallery.path}: {len(found)} neighbours are not {K} different images")
    if not np.allclose(distances, squared(query, stored), rtol=1e-5, atol=0):
        raise WrongResult(f"{gallery.path}: distances are not those of the stored descriptors")
    if (np.diff(distances) < 0).any():
        raise WrongResult(f"{gallery.path}: distances do not ascend")


def search(gallery: Path, queries: Path, limits: Path) -> Figures:
    """Measure latency, recall and memory in a process that does nothing else; files are in the system's cache."""
    asked = np.load(queries)
    before = resident()
    opened, opening = timed(partial(Gallery, gallery))
    _, first = timed(partial(opened.nearest, test_of(asked)[:1], K))
    found, latency = _search_all(lambda query: opened.nearest(query, K)[0], asked)
    memory = above(before)
    distances = np.array([[neighbour.distance for neighbour in of_query] for of_query in found])
    recall = recalls(distances, test_of(np.load(limits))).mean()
    return {**latency, "recall": float(recall), "open_and_first_ms": 1e3 * (opening + first), "resident": memory}


def _search_all(search: Callable[[np.ndarray], T], queries: np.ndarray) -> tuple[list[T], dict[str, float]]:
    """Search for all test queries, each [1, D]; return what was found, and median and percentiles in milliseconds."""
    for query in tuning_of(queries)[:WARM_UP]:
        search(query[None])
    found, seconds = zip(*(timed(partial(search, query[None])) for query in test_of(queries)), strict=True)
    median, p90, p99 = np.percentile(1e3 * np.array(seconds), [50, 90, 99])
    return list(found), {"queries": len(seconds), "ms": median, "ms_p90": p90, "ms_p99": p99}


def cold(gallery: Path, queries: Path) -> Figures:
    """Return median milliseconds and bytes read from disk of opening and a first query, with nothing cached.

    Bytes are None where the kernel does not count them.
    """
    index = index_file(gallery)
    files = [index, descriptors_file(index), gallery / CATALOG]

    def open_and_search(query: np.ndarray) -> None:
        with Gallery(gallery) as opened:
            opened.nearest(query[None], K)

    rows = []
    for query in test_of(np.load(queries))[:COLD]:
        gc.collect()  # pages that are still mapped would stay in the cache
        forget(files)
        before = read_from_disk()
        _, seconds = timed(partial(open_and_search, query))
        rows.append({"first_ms": 1e3 * seconds, "first_bytes": read_from_disk() - before})
    figures = medians(rows)
    return {"queries": len(rows), **figures, "first_bytes": figures["first_bytes"] or None}


@dataclass(frozen=True)
class BuiltPeer:
    """A peer's index and its search."""

    search: Callable[[np.ndarray], np.ndarray]  # query float32 [1, D] -> keys int64 [K]
    widen: Callable[[int], None] | None  # sets the width of the search
    text: str


@dataclass(frozen=True)
class Peer:
    """Another way to find the nearest descriptors."""

    title: str
    package: str
    build: Callable[[Blocks, int, int], BuiltPeer]  # descriptors, their number, D


def _flat(blocks: Blocks, images: int, dim: int) -> BuiltPeer:
    index = faiss.IndexFlatL2(dim)
    keys = np.empty(images, np.int64)
    for of, descriptors in blocks:
        keys[index.ntotal :][: len(of)] = of
        index.add(descriptors)
    return BuiltPeer(lambda query: keys[index.search(query, K)[1][0]], None, "IndexFlatL2")


def _hnswlib(blocks: Blocks, images: int, dim: int) -> BuiltPeer:
    import hnswlib

    index = hnswlib.Index("l2", dim)
    index.init_index(images, M=LINKS, ef_construction=BUILD_WIDTH, random_seed=0)
    for keys, descriptors in blocks:
        index.add_items(descriptors, keys)
    return BuiltPeer(lambda query: index.knn_query(query, K)[0][0].astype(np.int64), index.set_ef, f"M {LINKS}")


PEERS = {
    "flat": Peer("FAISS flat, in memory", "faiss", _flat),
    "hnswlib": Peer("hnswlib", "hnswlib", _hnswlib),
}


def peer(name: str, gallery: Path, queries: Path, limits: Path) -> Figures:
    """Build a peer on the descriptors of the gallery's index, choose its search width, and measure it."""
    descriptors = Descriptors(descriptors_file(index_file(gallery)))
    asked, limit = np.load(queries), np.load(limits)
    import_module(PEERS[name].package)  # before memory is measured
    before = resident()
    built, seconds = timed(partial(PEERS[name].build, descriptors.blocks(), len(descriptors.keys), asked.shape[1]))
    width = _widened(built, tuning_of(asked), tuning_of(limit), descriptors)
    found, latency = _search_all(built.search, asked)
    return {
        "text": built.text + (f", search width {width}" if width else ""),
        "seconds": seconds,
        **latency,
        "resident": above(before),
        "recall": float(_recalls(test_of(asked), found, test_of(limit), descriptors).mean()),
    }


def _widened(built: BuiltPeer, queries: np.ndarray, limits: np.ndarray, descriptors: Descriptors) -> int | None:
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
