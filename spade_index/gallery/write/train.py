"""Train the tables of the codec `pq` on a sample of a gallery's own images. See `store.quantizer`.

They are images of a gallery that is there, or files that one is about to be built of.
"""

import math
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import faiss
import numpy as np

from spade_index.errors import InputError
from spade_index.gallery.reader import Gallery
from spade_index.gallery.store.quantizer import KIND, Quantized, sizes_for
from spade_index.gallery.store.quantizer_tables import ROWS, Parts, Tables, nearest
from spade_index.images.decode import DecodedImage
from spade_index.images.files import ImageFile
from spade_index.images.loading import LOT, in_lots, load_all
from spade_index.images.ranges import spread
from spade_index.images.tiles import pieces_of
from spade_index.settings import BATCH_SIZE, WORKERS, ExtractionSettings, Preprocessing

if TYPE_CHECKING:  # it loads torch, which `spade-index list` and the like do without
    from spade_index.features.backbone import Backbone

SAMPLE = 256  # images, evenly spread over the gallery; the same each time
PICTURES = 32  # that tiles of the sample are cut from: large ones take long to decode
LEAST = 20  # images of the sample before a gallery is built: what comes later is to be like them
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
    sample = _Sample(gallery.settings, levels, len(rows))
    with gallery.in_turn():
        for row in rows:
            sample.add(gallery.decoded(row).maps)
    return sample.trained()


def trained_on(files: Iterable[ImageFile], backbone: "Backbone") -> Quantized:
    """Return the codec with tables for all levels of a gallery that is about to be built of these files.

    They are trained on up to 256 of the images, or of the tiles of up to 32 of the pictures, the same each time. Files
    that cannot be decoded are left out. Raises InputError if there are fewer than 20 images, and what loading does.
    """
    settings = backbone.settings
    how = settings.preprocessing
    chosen = [replace(file, region=None) for file in spread(files, SAMPLE if how.tile is None else PICTURES)]
    expected = len(chosen) if how.tile is None else SAMPLE
    sample = _Sample(settings, tuple(range(len(settings.level_shapes))), expected)
    loaded = load_all(chosen, how, workers=WORKERS, ahead=2 * LOT, on_error=lambda error: None, thumbnails=False)
    with closing(loaded) as images:
        pixels = (image.pixels for image in images if _is_wanted(image, len(chosen), how))
        batches = (np.stack(batch) for batch in in_lots(pixels, BATCH_SIZE))
        with closing(backbone.stream(batches, backbone.lanes(expected))) as stream:
            for features in stream:
                pyramid = [level.cpu().numpy() for level in features.pyramid]
                for place in range(len(pyramid[0])):
                    sample.add([level[place] for level in pyramid])
    if sample.images < LEAST:
        raise InputError(
            f"the tables of {KIND} are trained on at least {LEAST} images, and of these {sample.images} can be: build "
            f"with --maps int8, and `spade-index compact GALLERY --maps {KIND}` when there are more"
        )
    return sample.trained()


def _is_wanted(image: DecodedImage, pictures: int, how: Preprocessing) -> bool:
    """Return whether an image is of the sample: all are, but of tiles so many as are SAMPLE of all pictures."""
    if image.tile is None:
        return True
    tiles = len(pieces_of(image.geometry.width, image.geometry.height, how))
    return image.tile.number % math.ceil(tiles * pictures / SAMPLE) == 0


class _Sample:
    """Some vectors of the maps of images, of each level for which there are to be tables."""

    def __init__(self, settings: ExtractionSettings, levels: tuple[int, ...], expected: int) -> None:
        """Expect as many images, of each of which an equal share of the vectors is taken."""
        self.images = 0
        self._settings, self._levels, self._expected = settings, levels, expected
        self._vectors: dict[int, list[np.ndarray]] = {level: [] for level in levels}

    def add(self, maps: list[np.ndarray]) -> None:
        """Take some vectors of an image's maps, float16 [P, C] of each level, at random places."""
        random = np.random.default_rng([SEED, self.images])
        for level in self._levels:
            points, channels = maps[level].shape
            count = min(points, math.ceil(min(VECTORS, VALUES // channels) / self._expected))
            self._vectors[level].append(maps[level][np.sort(random.choice(points, count, replace=False))])
        self.images += 1

    def trained(self) -> Quantized:
        """Return the codec with the tables."""
        sizes = sizes_for(self._settings, self._levels)
        return Quantized.by(
            [tables_of(np.concatenate(self._vectors[n]), size) if size else None for n, size in enumerate(sizes)]
        )


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
        part -= table[nearest(part, table[:, : part.shape[1]]), : part.shape[1]]
    return Tables(unit, whole, cut, (unit * np.sqrt((left**2).mean(0))).astype("<f4"))


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
