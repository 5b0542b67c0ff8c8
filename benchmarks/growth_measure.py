"""Stage 1 at one size of the gallery: is it right, and what does it cost? Each function is a process's work.

`queries` is a file of descriptors float32 [held out, D]; the first quarter tunes, and the half after it tests.
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

from spade_index.benchmarks.growth_process import above, forget, read_from_disk, resident, timed
from spade_index.errors import SpadeIndexError
from spade_index.gallery import CATALOG, Gallery
from spade_index.gallery.index.descriptors import Descriptors, descriptors_file
from spade_index.gallery.index.index import IndexDescription
from spade_index.gallery.index.search import SPARE, Neighbour
from spade_index.gallery.index.tune import exact_neighbours
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.settings import IndexSettings

K = 50
TIED = 1 + 1e-6  # relative: what is as near as the K-th neighbour is as good
VERIFIED = 20  # queries
WARM_UP = 50
COLD = 10  # queries that find nothing in the system's cache


class WrongResult(SpadeIndexError):
    """What was found is not right."""


def tuning_of(queries: np.ndarray) -> np.ndarray:
    """Those that indexes are tuned on."""
    return queries[: len(queries) // 4]


def test_of(queries: np.ndarray) -> np.ndarray:
    """Those that are measured."""
    return queries[len(queries) // 4 :][: len(queries) // 2]


def index_path(gallery: Path) -> tuple[Path, IndexDescription]:
    """The file of the latest index, and what it is."""
    with Gallery(gallery) as opened:
        row = opened.catalog.index(opened.snapshot)
    assert row is not None
    return gallery / "index" / row.file, IndexDescription.from_json(row.description)


def build(gallery: str, queries: str, storage: str, dimensions: int | None) -> dict[str, Any]:
    """The index, as `spade-index index --queries` builds it; no dimensions: the default ones."""
    settings = IndexSettings(storage) if dimensions is None else IndexSettings(storage, dimensions)
    with GalleryWriter(gallery) as writer:
        description, seconds = timed(lambda: writer.build_index(settings, tuning_of(np.load(queries))))
    return {"seconds": seconds, "text": str(description), **asdict(description)}


def check(gallery: str, queries: str, limits: str) -> dict[str, Any]:
    """Verify what the gallery finds; note how far the K-th neighbour of each query is, float64 [held out], in `limits`.

    Returns the bytes that one query needs. Raises WrongResult.
    """
    file, description = index_path(Path(gallery))
    descriptors = Descriptors(descriptors_file(file))
    asked = np.load(queries)
    distances = _exact(descriptors, asked)
    np.save(limits, distances[:, K - 1])
    with Gallery(gallery) as opened:
        for query in test_of(asked)[:VERIFIED]:
            _verify(opened, query, opened.nearest(query[None], K)[0])
    candidates = max(K + SPARE, description.count(K))
    return {
        "verified_queries": min(VERIFIED, len(test_of(asked))),
        "candidates": candidates,
        "candidate_bytes": 4 * candidates * asked.shape[1],
        "list_bytes": _list_bytes(file, description, test_of(asked)),
    }


def _exact(descriptors: Descriptors, queries: np.ndarray) -> np.ndarray:
    """Squared distances of the K nearest of each query, float64 [Q, K]; FAISS's are rounded, so more are compared."""
    count = min(K + SPARE, len(descriptors.keys) - 1)
    keys = exact_neighbours(np.full(len(queries), -2), queries, descriptors.blocks(), count)
    found = [squared(query, descriptors.at(descriptors.places(of))) for query, of in zip(queries, keys, strict=True)]
    return np.sort(np.stack(found), 1)[:, :K]


def squared(query: np.ndarray, descriptors: np.ndarray) -> np.ndarray:
    """Squared distances of a query [D] to descriptors [n, D], float64 [n]."""
    return ((descriptors.astype(np.float64) - query) ** 2).sum(1)


def recalls(distances: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """The share of K that is as near as the K-th exact neighbour: distances [Q, K], limits [Q], shares [Q]."""
    return (distances <= limits[:, None] * TIED).sum(1) / K


def _verify(gallery: Gallery, query: np.ndarray, found: Sequence[Neighbour]) -> None:
    stored = gallery.pooled([gallery.image(neighbour.id) for neighbour in found])
    distances = np.array([neighbour.distance for neighbour in found])
    if len({neighbour.id for neighbour in found}) != K:
        raise WrongResult(f"{gallery.path}: {len(found)} neighbours are not {K} different images")
    if not np.allclose(distances, squared(query, stored), rtol=1e-5, atol=0):
        raise WrongResult(f"{gallery.path}: distances are not those of the stored descriptors")
    if (np.diff(distances) < 0).any():
        raise WrongResult(f"{gallery.path}: distances do not ascend")


def _list_bytes(file: Path, description: IndexDescription, queries: np.ndarray) -> float:
    """Bytes of codes and keys in the lists that a query probes, on average; of a flat index, all of it."""
    index: Any = faiss.read_index(str(file), faiss.IO_FLAG_MMAP)
    if description.kind == "flat":
        return 4.0 * index.ntotal * queries.shape[1]
    if description.kind == "pca-ivf":
        queries = index.chain.at(0).apply(queries)
    lists: Any = faiss.extract_index_ivf(index)
    probed = lists.quantizer.search(queries, description.nprobe)[1]
    sizes = np.array([lists.invlists.list_size(number) for number in range(lists.nlist)])
    return float(sizes[probed].sum(1).mean() * (lists.code_size + 8))


def search(gallery: str, queries: str, limits: str) -> dict[str, Any]:
    """Latency, recall and memory in a process that does nothing else; files are in the system's cache."""
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
    """Of single queries, in milliseconds."""
    median, p90, p99 = np.percentile(1e3 * np.array(seconds), [50, 90, 99])
    return {"queries": len(seconds), "ms": median, "ms_p90": p90, "ms_p99": p99}


def cold(gallery: str, queries: str) -> dict[str, Any]:
    """Queries whose files are not in the system's cache: milliseconds and bytes read from disk, medians.

    `first` opens the gallery too. `query` is the one after it, for which the cache was emptied again, but for pages
    that the one before has mapped.
    """
    file, _ = index_path(Path(gallery))
    files = [file, descriptors_file(file), Path(gallery, CATALOG)]
    tests = test_of(np.load(queries))
    rows = []
    for place in range(min(COLD, len(tests) // 2)):
        gc.collect()  # what is mapped stays in the cache
        rows.append(_cold(Path(gallery), files, tests[[-1 - place]], tests[[place]]))
    first_ms, first_bytes, ms, read = np.median(rows, 0)
    return {
        "queries": len(rows),
        "first_ms": first_ms,
        "first_bytes": first_bytes if first_bytes else None,
        "ms": ms,
        "bytes": read if first_bytes else None,  # a kernel that does not count what it reads says 0 of all
    }


def _cold(path: Path, files: list[Path], first: np.ndarray, query: np.ndarray) -> tuple[float, int, float, int]:
    """Milliseconds and bytes of opening the gallery and searching for one descriptor [1, D], and then for another."""
    forget(files)
    start = read_from_disk()
    gallery, opening = timed(lambda: Gallery(path))
    with gallery:
        _, first_search = timed(lambda: gallery.nearest(first, K))
        first_bytes = read_from_disk() - start
        forget(files)
        start = read_from_disk()
        _, search_after = timed(lambda: gallery.nearest(query, K))
        return 1e3 * (opening + first_search), first_bytes, 1e3 * search_after, read_from_disk() - start
