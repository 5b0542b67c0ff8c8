"""Verify and measure a gallery at one size. Public functions run in a process of their own.

`queries` is a file of descriptors float32 [held out, D]: the first quarter tunes, and the half after it tests.
"""

import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import faiss
import numpy as np

from spade_index.benchmarks import growth_data
from spade_index.benchmarks.harness import Figures, WrongResult, medians, timed
from spade_index.benchmarks.processes import above, forget, read_from_disk, resident
from spade_index.gallery import CATALOG, Gallery
from spade_index.gallery.index.descriptors import Descriptors, descriptors_file
from spade_index.gallery.index.index import IndexDescription
from spade_index.gallery.index.search import SPARE, Neighbour
from spade_index.gallery.index.tune import exact_neighbours
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.settings import IndexSettings

T = TypeVar("T")

K = 50
TIED = 1 + 1e-6  # relative: an image as near as the K-th neighbour is as good
VERIFIED = 20  # queries
WARM_UP = 50
COLD = 10  # queries for which the system's cache is emptied
PIXEL_QUERIES = 30
ADD_ROUNDS = 3


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


def build(gallery: Path, queries: Path, settings: IndexSettings) -> Figures:
    """Build the index as `spade-index index --queries` does."""
    with GalleryWriter(gallery) as writer:
        description, seconds = timed(partial(writer.build_index, settings, tuning_of(np.load(queries))))
    return {"seconds": seconds, "text": str(description), **asdict(description)}


def check(gallery: Path, queries: Path, limits: Path) -> Figures:
    """Verify the gallery's neighbours; save the distances of the exact K-th ones, float64 [held out], to `limits`.

    Returns the bytes that one query needs. Raises WrongResult.
    """
    file, description = index_path(gallery)
    asked = np.load(queries)
    tests = test_of(asked)
    np.save(limits, _exact(Descriptors(descriptors_file(file)), asked)[:, K - 1])
    with Gallery(gallery) as opened:
        for query in tests[:VERIFIED]:
            verify(opened, query, opened.nearest(query[None], K)[0])
    candidates = max(K + SPARE, description.count(K))
    return {
        "verified_queries": len(tests[:VERIFIED]),
        "candidates": candidates,
        "candidate_bytes": 4 * candidates * asked.shape[1],
        "list_bytes": _list_bytes(file, description, tests),
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
    opened, opening = timed(partial(Gallery, gallery))
    _, first = timed(partial(opened.nearest, tests[:1], K))
    memory = above(before)
    for query in tuning_of(asked)[:WARM_UP]:
        opened.nearest(query[None], K)
    found, seconds = zip(*(timed(partial(opened.nearest, query[None], K)) for query in tests), strict=True)
    distances = np.array([[neighbour.distance for neighbour in of_query] for (of_query,) in found])
    return {
        **latency(seconds),
        "recall": float(recalls(distances, test_of(np.load(limits))).mean()),
        "open_and_first_ms": 1e3 * (opening + first),
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
    again, except for pages that the first has mapped. Bytes are None where the kernel does not count them.
    """
    file, _ = index_path(gallery)
    files = [file, descriptors_file(file), gallery / CATALOG]
    tests = test_of(np.load(queries))

    def open_and_search(query: np.ndarray) -> Gallery:
        opened = Gallery(gallery)
        opened.nearest(query, K)
        return opened

    rows = []
    for place in range(min(COLD, len(tests) // 2)):
        gc.collect()  # pages that are still mapped would stay in the cache
        opened, first_ms, first_bytes = _uncached(files, partial(open_and_search, tests[[-1 - place]]))
        with opened:
            _, ms, read = _uncached(files, partial(opened.nearest, tests[[place]], K))
        rows.append({"first_ms": first_ms, "first_bytes": first_bytes, "ms": ms, "bytes": read})
    figures = medians(rows)
    uncounted = {} if figures["first_bytes"] else {"first_bytes": None, "bytes": None}
    return {"queries": len(rows), **figures, **uncounted}


def _uncached(files: Sequence[Path], call: Callable[[], T]) -> tuple[T, float, int]:
    """Drop files from the cache and call a function; return its result, its milliseconds and the bytes read."""
    forget(files)
    before = read_from_disk()
    result, seconds = timed(call)
    return result, 1e3 * seconds, read_from_disk() - before


def pixels(work: Path, held: int) -> Figures:
    """Return median milliseconds of reading the neighbours' maps and of the rest of a query, with an empty map pool.

    `new`: the first time, when the process does not know yet where the rows of the shards are. `warm`: again, with all
    in the system's cache. `cold`: again, with the shards dropped from the cache before each query.
    """
    features = growth_data.Features.read(work, held)
    rows = test_of(np.arange(held))[:PIXEL_QUERIES]
    with Gallery(work / "gallery") as gallery:
        shards = sorted((gallery.path / "shards").iterdir())
        _pixel_query(gallery, features, rows[0], [])  # warms up torch
        figures = {
            name: medians([_pixel_query(gallery, features, row, forgotten) for row in rows])
            for name, forgotten in (("new", []), ("warm", []), ("cold", shards))
        }
        return {"queries": len(rows), "maps": K, "map_bytes": K * gallery.settings.map_bytes, **figures}


def _pixel_query(
    gallery: Gallery, features: growth_data.Features, row: int, forgotten: Sequence[Path]
) -> dict[str, float]:
    """Measure one query with a detector whose map pool is empty."""
    import torch  # here: the processes that measure memory do without it

    from spade_index import Detector, SearchSettings
    from spade_index.benchmarks.query_profile import clocked

    # The pool has room for little more than one query's maps: there are many detectors, each with its own.
    detector = Detector(gallery, None, SearchSettings(gallery_neighbours=K), map_memory=1)
    pyramid = [torch.from_numpy(np.array(level[row], np.float32))[None] for level in features.maps]
    query = partial(detector.detect_features, features.pooled[row][None], pyramid)
    with clocked({"images": (gallery, "nearest"), "maps": (detector.map_pool, "fetch")}) as seconds:
        _, whole_ms, read = _uncached(forgotten, query)
    images_ms, maps_ms = 1e3 * seconds["images"], 1e3 * seconds["maps"]
    return {"images_ms": images_ms, "maps_ms": maps_ms, "search_ms": whole_ms - images_ms - maps_ms, "bytes": read}


def add(work: Path, photographs: Path, input_size: int, held: int, images: int) -> Figures:
    """Return median seconds of adding `images` held-out photographs, and of removing them again.

    Each opens the gallery for writing and closes it; loading the backbone is not timed.
    """
    backbone = growth_data.make_backbone(input_size)
    backbone(np.zeros((1, input_size, input_size, 3), np.uint8))
    added = growth_data.shuffled(photographs)[held - images : held]
    files = [replace(file, id=growth_data.ADDED + file.id) for file in added]

    def add_all() -> int:
        with GalleryWriter(work / "gallery") as writer:
            return writer.add(files, backbone).added

    def remove_all() -> int:
        with GalleryWriter(work / "gallery") as writer:
            return growth_data.remove(writer, [file.id for file in files])

    rows = []
    for _ in range(ADD_ROUNDS):
        (count, adding), (removed, removing) = timed(add_all), timed(remove_all)
        assert removed == count
        rows.append({"add_s": adding, "remove_s": removing})
    return {"images": count, **medians(rows)}
