"""Verifies and measures the search for nearest images at one size of the gallery. Public functions run in a process.

`queries` is a file of descriptors float32 [held out, D]: the first quarter tunes, and the half after it tests.
"""

import gc
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from spade_index.benchmarks.harness import Figures, WrongResult, timed
from spade_index.benchmarks.processes import above, forget, read_from_disk, resident
from spade_index.gallery import CATALOG, Gallery
from spade_index.gallery.index.descriptors import Descriptors, descriptors_file
from spade_index.gallery.index.index import IndexDescription
from spade_index.gallery.index.search import SPARE, Neighbour
from spade_index.gallery.index.tune import exact_neighbours
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.settings import IndexSettings

K = 50
TIED = 1 + 1e-6  # relative: an image as near as the K-th neighbour is as good
VERIFIED = 20  # queries
WARM_UP = 50
COLD = 10  # queries for which the system's cache is emptied


def tuning_of(queries: np.ndarray) -> np.ndarray:
    """Return the queries that indexes are tuned on."""
    return queries[: len(queries) // 4]


def test_of(queries: np.ndarray) -> np.ndarray:
    """Return the queries that are measured."""
    return queries[len(queries) // 4 :][: len(queries) // 2]


def index_path(gallery: Path) -> tuple[Path, IndexDescription]:
    """Return the file of the latest index, and its description."""
    with Gallery(gallery) as opened:
        row = opened.catalog.index(opened.snapshot)
    assert row is not None
    return gallery / "index" / row.file, IndexDescription.from_json(row.description)


def build(gallery: Path, queries: Path, storage: str, dimensions: int | None) -> Figures:
    """Build the index as `spade-index index --queries` does; `dimensions` None: the default."""
    settings = IndexSettings(storage) if dimensions is None else IndexSettings(storage, dimensions)
    with GalleryWriter(gallery) as writer:
        description, seconds = timed(partial(writer.build_index, settings, tuning_of(np.load(queries))))
    return {"seconds": seconds, "text": str(description), **asdict(description)}


def check(gallery: Path, queries: Path, limits: Path) -> Figures:
    """Verify the gallery's neighbours; save the distances of the exact K-th ones, float64 [held out], to `limits`.

    Returns the bytes that one query needs. Raises WrongResult.
    """
    file, description = index_path(gallery)
    descriptors = Descriptors(descriptors_file(file))
    asked = np.load(queries)
    distances = _exact(descriptors, asked)
    np.save(limits, distances[:, K - 1])
    with Gallery(gallery) as opened:
        for query in test_of(asked)[:VERIFIED]:
            verify(opened, query, opened.nearest(query[None], K)[0])
    candidates = max(K + SPARE, description.count(K))
    return {
        "verified_queries": min(VERIFIED, len(test_of(asked))),
        "candidates": candidates,
        "candidate_bytes": 4 * candidates * asked.shape[1],
        "list_bytes": _list_bytes(file, description, test_of(asked)),
    }


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


def _list_bytes(file: Path, description: IndexDescription, queries: np.ndarray) -> float:
    """Return the mean bytes of codes and keys in the lists that a query probes; of a flat index, all bytes."""
    index: Any = faiss.read_index(str(file), faiss.IO_FLAG_MMAP)
    if description.kind == "flat":
        return 4.0 * index.ntotal * queries.shape[1]
    if description.kind == "pca-ivf":
        queries = index.chain.at(0).apply(queries)
    lists: Any = faiss.extract_index_ivf(index)
    probed = lists.quantizer.search(queries, description.nprobe)[1]
    sizes = np.array([lists.invlists.list_size(number) for number in range(lists.nlist)])
    return float(sizes[probed].sum(1).mean() * (lists.code_size + 8))


def search(gallery: Path, queries: Path, limits: Path) -> Figures:
    """Measure latency, recall and memory in a process that does nothing else; files are in the system's cache."""
    asked = np.load(queries)
    tests = test_of(asked)
    before = resident()
    started = time.perf_counter()
    opened = Gallery(gallery)
    opened.nearest(tests[:1], K)
    first = time.perf_counter() - started
    memory = above(before)
    for query in tuning_of(asked)[:WARM_UP]:
        opened.nearest(query[None], K)
    found, seconds = zip(*(timed(partial(opened.nearest, query[None], K)) for query in tests), strict=True)
    distances = np.array([[neighbour.distance for neighbour in of_query] for (of_query,) in found])
    return {
        **latency(seconds),
        "recall": float(recalls(distances, test_of(np.load(limits))).mean()),
        "open_and_first_ms": 1e3 * first,
        "opened": memory,
        "resident": above(before),
    }


def latency(seconds: Sequence[float]) -> dict[str, float]:
    """Return the median and percentiles of single queries in milliseconds."""
    median, p90, p99 = np.percentile(1e3 * np.array(seconds), [50, 90, 99])
    return {"queries": len(seconds), "ms": median, "ms_p90": p90, "ms_p99": p99}


def cold(gallery: Path, queries: Path) -> Figures:
    """Return median milliseconds and bytes read from disk of queries whose files are not in the system's cache.

    `first` includes opening the gallery. The other figures are of the next query, for which the cache is emptied
    again, except for pages that the first has mapped.
    """
    file, _ = index_path(gallery)
    files = [file, descriptors_file(file), gallery / CATALOG]
    tests = test_of(np.load(queries))
    rows = []
    for place in range(min(COLD, len(tests) // 2)):
        gc.collect()  # pages that are still mapped would stay in the cache
        rows.append(_cold(gallery, files, tests[[-1 - place]], tests[[place]]))
    first_ms, first_bytes, ms, read = np.median(rows, 0)
    return {
        "queries": len(rows),
        "first_ms": first_ms,
        "first_bytes": first_bytes if first_bytes else None,
        "ms": ms,
        "bytes": read if first_bytes else None,  # 0 of both: the kernel does not count reads
    }


def _cold(path: Path, files: list[Path], first: np.ndarray, query: np.ndarray) -> tuple[float, int, float, int]:
    """Return milliseconds and bytes of opening the gallery and a search for one descriptor [1, D]; then of another."""
    forget(files)
    start = read_from_disk()
    gallery, opening = timed(partial(Gallery, path))
    with gallery:
        _, first_search = timed(partial(gallery.nearest, first, K))
        first_bytes = read_from_disk() - start
        forget(files)
        start = read_from_disk()
        _, search_after = timed(partial(gallery.nearest, query, K))
        return 1e3 * (opening + first_search), first_bytes, 1e3 * search_after, read_from_disk() - start
