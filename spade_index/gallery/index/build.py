"""Build the FAISS index: within a memory budget, with the fewest probes and candidates that reach a recall."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from spade_index.errors import InputError
from spade_index.gallery.store.files import create
from spade_index.settings import STORAGES, IndexSettings

from .descriptors import Blocks, evenly_spaced
from .index import IndexDescription
from .tune import tune

EXACT_LIMIT = 20_000  # images up to which a flat scan is as fast as inverted lists
TRAINING_PER_LIST = 64  # descriptors per inverted list in the sample for k-means, if memory allows
LEAST_PER_LIST = 39  # FAISS warns below it
OTHER_TRAINING = 65_536  # descriptors in the sample for components, 8-bit ranges and product quantizers
PQ_DIMENSIONS = 8  # that one byte of a product quantizer's code stands for
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
        description = tune(index, description, blocks, queries, say)
    # FAISS's own file reports no error when the disk is full as the file is closed.
    with create(path) as created, io.BufferedWriter(created) as file:
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
        components.train(evenly_spaced(blocks(), images, min(images, OTHER_TRAINING))[1])
        index = faiss.IndexPreTransform(components, lists)
        training = lambda: ((keys, components.apply(descriptors)) for keys, descriptors in blocks())  # noqa: E731
    sample = evenly_spaced(training(), images, min(images, nlist * TRAINING_PER_LIST, fits))[1]
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
