"""Train the tables of the codec `pq` on a sample of a gallery's own images. See `store.quantizer`."""

import math

import faiss
import numpy as np

from spade_index.errors import InputError
from spade_index.gallery.reader import Gallery
from spade_index.gallery.store.quantizer import ROWS, Parts, Quantized, Tables, nearest, sizes_for

SAMPLE = 256  # images, evenly spread over the gallery; the same each time
VECTORS = 1 << 16  # of a level at most
VALUES = 1 << 25  # of these vectors at most
BITS = 14  # of the largest value, in units
ROUNDS = 15  # of k-means
SEED = 1


def trained(gallery: Gallery, levels: tuple[int, ...]) -> Quantized:
    """Return the codec with tables for these levels. Raises InputError for a gallery without images, GalleryDamaged."""
    rows = gallery.sample(SAMPLE)
    if not rows:
        raise InputError(
            f"{gallery.path}: the gallery is empty: add the normal images that tables are trained on first"
        )
    vectors: dict[int, list[np.ndarray]] = {level: [] for level in levels}
    for number, row in enumerate(rows):
        maps = gallery.decoded(row).maps
        random = np.random.default_rng([SEED, number])
        for level in levels:
            most = min(VECTORS, VALUES // maps[level].shape[1])
            count = min(len(maps[level]), math.ceil(most / len(rows)))
            vectors[level].append(maps[level][np.sort(random.choice(len(maps[level]), count, replace=False))])
    sizes = sizes_for(gallery.settings, levels)
    return Quantized.by([tables_of(np.concatenate(vectors[n]), size) if size else None for n, size in enumerate(sizes)])


def tables_of(values: np.ndarray, size: int) -> Tables:
    """Return the tables of a level for places of `size` bytes, trained on vectors float16 [n, C], at least one."""
    parts = Parts.of(values.shape[1], size)
    largest = float(np.abs(values).max())
    unit = 2.0 ** (math.frexp(max(largest, 2.0**-24))[1] - BITS)
    left = Tables(unit, np.empty((0, ROWS, values.shape[1]), "<i2"), np.empty((0, ROWS, 1), "<i2")).units(values)
    whole = np.zeros((parts.whole, ROWS, values.shape[1]), "<i2")
    for table in whole:
        table[:] = _table(left)
        left -= table[nearest(left, table)]
    cut = np.zeros((parts.number, ROWS, parts.width), "<i2")
    for number, table in enumerate(cut):
        part = left[:, number * parts.width : (number + 1) * parts.width]
        table[:, : part.shape[1]] = _table(part)
    return Tables(unit, whole, cut)


def _table(vectors: np.ndarray) -> np.ndarray:
    """Return the centres of vectors float64 [n, C] by k-means, whole numbers [256, C]; zeros where there are fewer."""
    table = np.zeros((ROWS, vectors.shape[1]))
    means = faiss.Kmeans(
        vectors.shape[1],
        min(ROWS, len(vectors)),
        niter=ROUNDS,
        seed=SEED,
        min_points_per_centroid=1,
        max_points_per_centroid=len(vectors),
    )
    means.train(np.ascontiguousarray(vectors, np.float32))
    table[: means.k] = means.centroids
    return np.clip(np.rint(table), -(1 << 15), (1 << 15) - 1)
