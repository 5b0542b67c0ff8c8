"""Build the FAISS index: within a memory budget, with the fewest probes and candidates that reach a recall."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from spade_index.errors import InputError
from spade_index.settings import STORAGES, IndexSettings

from .descriptors import Blocks
from .index import RECALL_AT, IndexDescription

EXACT_LIMIT = 20_000  # images up to which a flat scan is as fast as inverted lists
TRAINING_PER_LIST = 64  # descriptors per inverted list in the sample for k-means, if memory allows
LEAST_PER_LIST = 39  # FAISS warns below it
OTHER_TRAINING = 65_536  # descriptors in the sample for components, 8-bit ranges and product quantizers
PQ_DIMENSIONS = 8  # that one byte of a product quantizer's code stands for
RECALL_QUERIES = 256  # of the gallery's own images, where no queries are given
MOST_CANDIDATES = {"flat": 2, "fp16": 2, "sq8": 4, "pq": 20}  # times RECALL_AT; with components twice as many
MARGIN = 2  # standard errors by which the measured recall is to be above the target
SCAN_BLOCK = 8192  # descriptors compared with the queries at a time
WRITE_BLOCK = 1 << 16  # bytes that FAISS hands over at a time

Say = Callable[[str], None]


def build_index(
    path: Path,
    blocks: Callable[[], Blocks],
    images: int,
    dim: int,
    settings: IndexSettings | None = None,
    queries: np.ndarray | None = None,
    say: Say = lambda line: None,
) -> IndexDescription:
    """Build and write the index of all descriptors that `blocks` yields; it is called several times.

    It is exact up to EXACT_LIMIT images, and has inverted lists beyond. Their probes and candidates are chosen so that
    the recall reaches the settings' target, measured with `queries` float32 [q, D], or with some of the images.
    Descriptors are read block by block, and k-means gets a sample that fits into the settings' memory. `say` is called
    with a line for each step. Raises InputError if no index fits into the memory, OSError.
    """
    settings = settings or IndexSettings()
    kind = "flat" if images <= EXACT_LIMIT else "pca-ivf" if 0 < settings.dimensions < dim else "ivf"
    description = IndexDescription(
        kind,
        images,
        storage=settings.storage,
        dimensions=settings.dimensions,
        target=settings.recall,
        memory=settings.memory,
    )
    if kind == "flat":
        index: Any = faiss.IndexIDMap(faiss.IndexFlatL2(dim))
        _add(index, blocks(), images, say)
    else:
        index = _empty_lists(blocks, dim, description, say)
        _add(index, blocks(), images, say)
        description = _tune(index, description, blocks, queries, say)
    # FAISS's own file reports no error when the disk is full as the file is closed.
    with open(path, "wb") as file:
        writer = faiss.PyCallbackIOWriter(file.write, WRITE_BLOCK)  # type: ignore[attr-defined]
        faiss.write_index(index, writer)
    return description


def _empty_lists(blocks: Callable[[], Blocks], dim: int, described: IndexDescription, say: Say) -> Any:
    """Return trained inverted lists, empty."""
    images, reduced = described.images, described.kind == "pca-ivf"
    nlist = min(int(4 * math.sqrt(images)), images // LEAST_PER_LIST)
    lists = _lists(described.dimensions if reduced else dim, nlist, described.storage)
    left = described.memory - images * (lists.code_size + 8) - 4 * lists.d * nlist
    left -= 4 * dim * min(images, OTHER_TRAINING) * reduced
    fits = left // (2 * 4 * lists.d)  # descriptors of the sample, with room for copies
    if fits < LEAST_PER_LIST * nlist:
        needed = described.memory - left + LEAST_PER_LIST * nlist * 2 * 4 * lists.d
        raise InputError(
            f"an index of {images:,} images stored as {described.storage} takes {needed >> 20:,} MiB to build, and "
            f"{described.memory >> 20:,} may be used: give more, or a smaller storage ({', '.join(STORAGES)})"
        )
    index = lists
    training = blocks
    if reduced:
        say(f"{lists.d} principal components of {dim}")
        components = faiss.PCAMatrix(dim, lists.d)
        components.train(_sample(blocks(), images, min(images, OTHER_TRAINING))[1])
        index = faiss.IndexPreTransform(components, lists)
        training = lambda: ((keys, components.apply(descriptors)) for keys, descriptors in blocks())  # noqa: E731
    sample = _sample(training(), images, min(images, nlist * TRAINING_PER_LIST, fits))[1]
    say(f"k-means: {len(sample):,} descriptors into {nlist:,} lists")
    lists.quantizer.add(_centres(sample, nlist))
    lists.train(sample[:: math.ceil(len(sample) / OTHER_TRAINING)].copy())
    index.is_trained = True
    return index


def _centres(sample: np.ndarray, nlist: int) -> np.ndarray:
    """Return the centres of the lists, float32 [nlist, D], by k-means on all GPUs, or on the CPU if there is none."""
    dim = sample.shape[1]
    nearest: Any = faiss.IndexFlatL2(dim)
    if hasattr(faiss, "index_cpu_to_all_gpus") and faiss.get_num_gpus():
        nearest = faiss.index_cpu_to_all_gpus(nearest)
    clustering = faiss.Clustering(dim, nlist)
    clustering.niter = 10  # the default of faiss.IndexIVF
    clustering.min_points_per_centroid = LEAST_PER_LIST
    clustering.train(sample, nearest)
    return faiss.vector_to_array(clustering.centroids).reshape(nlist, dim)


def _lists(dim: int, nlist: int, storage: str) -> Any:
    """Return untrained lists, whose codes are of residuals: of descriptors without their list's centre."""
    coarse = faiss.IndexFlatL2(dim)
    if storage == "flat":
        return faiss.IndexIVFFlat(coarse, dim, nlist)
    if storage == "pq":
        codes = max(m for m in range(1, max(1, dim // PQ_DIMENSIONS) + 1) if dim % m == 0)
        index = faiss.IndexIVFPQ(coarse, dim, nlist, codes, 8)
        index.use_precomputed_table = -1
        return index
    kind = faiss.ScalarQuantizer.QT_fp16 if storage == "fp16" else faiss.ScalarQuantizer.QT_8bit
    return faiss.IndexIVFScalarQuantizer(coarse, dim, nlist, kind)


def _add(index: Any, blocks: Blocks, images: int, say: Say) -> None:
    done = 0
    for keys, descriptors in blocks:
        index.add_with_ids(np.ascontiguousarray(descriptors), keys)
        if done * 10 // images < (done + len(keys)) * 10 // images:
            say(f"{done + len(keys):,} of {images:,} descriptors in lists")
        done += len(keys)


def _tune(
    index: Any,
    description: IndexDescription,
    blocks: Callable[[], Blocks],
    queries: np.ndarray | None,
    say: Say,
) -> IndexDescription:
    """Choose the fewest probes, and then the fewest candidates, whose recall is above the target by MARGIN.

    Without queries, some of the gallery's own images are searched for, each left out of its own results. If the target
    cannot be reached, all lists are probed, and the description has the recall that was measured.
    """
    say("recall: the exact neighbours of some images")
    if given := queries is not None and len(queries) > 0:
        queries = np.ascontiguousarray(queries, np.float32)
        keys = np.full(len(queries), -2)  # neither an image's key nor FAISS's -1 for none
    else:
        keys, queries = _sample(blocks(), description.images, RECALL_QUERIES)
    exact = exact_neighbours(keys, queries, blocks(), RECALL_AT)
    most = MOST_CANDIDATES[description.storage] * RECALL_AT * (2 if description.kind == "pca-ivf" else 1)
    most = min(most, description.images - 1)
    lists = faiss.extract_index_ivf(index)
    description = replace(description, nlist=lists.nlist)

    def recalls(nprobe: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the recall [most] with 1, 2, .. candidates, and the same less MARGIN standard errors."""
        lists.nprobe = nprobe
        found = _others(index.search(queries, most + 1)[1], keys)
        hits = np.stack([np.isin(row, of_query) for row, of_query in zip(found, exact, strict=True)])
        recall = hits.cumsum(1) / exact.shape[1]  # [Q, most]
        return recall.mean(0), recall.mean(0) - MARGIN * recall.std(0) / math.sqrt(len(recall))

    few, enough = 0, 1
    while recalls(enough)[1][-1] < description.target and enough < description.nlist:
        few, enough = enough, min(2 * enough, description.nlist)
    while enough - few > max(1, enough // 16):
        middle = (few + enough) // 2
        few, enough = (middle, enough) if recalls(middle)[1][-1] < description.target else (few, middle)
    # Probing a little more than needed lets fewer candidates suffice.
    enough = min(math.ceil(1.25 * enough), description.nlist)
    reached, safe = recalls(enough)
    least = min(RECALL_AT, most)
    sufficient = np.flatnonzero(safe[least - 1 :] >= description.target)
    candidates = least + int(sufficient[0]) if len(sufficient) else most
    found = replace(
        description,
        nprobe=enough,
        candidates=candidates,
        recall=float(reached[candidates - 1]),
        queries=len(queries) if given else 0,
    )
    say(str(found))
    return found


def exact_neighbours(keys: np.ndarray, queries: np.ndarray, blocks: Blocks, count: int) -> np.ndarray:
    """Return the keys int64 [Q, count] of each query's nearest, itself excluded, by comparing it with all descriptors.

    `keys` int64 [Q] are the queries' own, `queries` float32 [Q, D].
    """
    distances: np.ndarray = np.empty((len(queries), 0), np.float32)
    nearest: np.ndarray = np.empty((len(queries), 0), np.int64)
    for block_keys, descriptors in _together(blocks, SCAN_BLOCK):
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


def _together(blocks: Blocks, size: int) -> Blocks:
    """Yield blocks joined to at least `size` descriptors each, but for the last."""
    lot: list[tuple[np.ndarray, np.ndarray]] = []
    for block in blocks:
        lot.append(block)
        if sum(len(keys) for keys, _ in lot) >= size:
            yield _joined(lot)
            lot = []
    if lot:
        yield _joined(lot)


def _joined(lot: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([keys for keys, _ in lot]), np.concatenate([descriptors for _, descriptors in lot])


def _sample(blocks: Blocks, images: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Return keys int64 [n] and descriptors float32 [n, D] of evenly spaced images, at most `wanted`."""
    step = math.ceil(images / wanted)
    sampled = np.empty(math.ceil(images / step), np.int64)
    sample, seen, filled = np.empty((0, 0), np.float32), 0, 0
    for keys, descriptors in blocks:
        if not filled:
            sample = np.empty((len(sampled), descriptors.shape[1]), np.float32)
        some = keys[-seen % step :: step]
        here = slice(filled, filled + len(some))
        sampled[here], sample[here] = some, descriptors[-seen % step :: step]
        seen, filled = seen + len(keys), here.stop
    return sampled[:filled], sample[:filled]
