"""The pooled descriptors of an index's images in one file, in the order of their keys.

    attrs     format="spade-index", version
    /key      [n]     int64, ascending
    /pooled   [n, D]  float32, contiguous
    /queries  [q, D]  float32: the descriptors that the index was tuned on, unless they are its own

Shards hold the same values, but the candidates of one query lie in hundreds of them.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np

from spade_index.gallery.store.format import FORMAT, PLAIN
from spade_index.gallery.store.hdf5 import array, unreadable
from spade_index.gallery.store.rows import FileRows, LocalFile, RowsFile
from spade_index.gallery.store.sink import Sink

BLOCK = 8192  # descriptors read at a time by `Descriptors.blocks`

Blocks = Iterator[tuple[np.ndarray, np.ndarray]]  # keys int64 [n], descriptors float32 [n, D]


def descriptors_file(index: Path) -> Path:
    """Return the path of the descriptors that belong to an index's file."""
    return index.with_suffix(".h5")


class Descriptors:
    """Reads descriptors by key; they stay in their file."""

    def __init__(self, path: Path, rows: RowsFile | None = None) -> None:
        """Open the file, or take an open one, which errors call `path`.

        Raises FileNotFoundError, or GalleryDamaged or StorageError if it cannot be read.
        """
        self.path = path
        try:
            rows = LocalFile(path) if rows is None else rows
            with rows.opened() as file:
                (keys, _), (pooled, offset) = array(file, "key", "<i8", 1), array(file, "pooled", "<f4", 2)
                if len(keys) != len(pooled):
                    raise ValueError("its arrays do not fit each other")
                self.keys: np.ndarray = keys[:]
                self.queries: np.ndarray | None = None
                if "queries" in file:
                    self.queries = array(file, "queries", "<f4", 2)[0][:]
                self._pooled = FileRows(rows, "<f4", offset, pooled.shape, _remedy(path))
        except FileNotFoundError:
            raise
        except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise unreadable(path, error, _remedy(path)) from error
        self._pooled.expect_few()

    def places(self, keys: np.ndarray) -> np.ndarray:
        """Return the rows int64 [n] of the descriptors with keys int64 [n], -1 for those that are not here."""
        places = np.searchsorted(self.keys, keys)
        there = self.keys[np.minimum(places, len(self.keys) - 1)] == keys
        return np.where(there, places, -1)

    def at(self, places: np.ndarray) -> np.ndarray:
        """Return the descriptors of these rows, float32 [n, D]. Raises GalleryDamaged."""
        return self._pooled.take(places)

    def distances(self, places: np.ndarray, query: np.ndarray) -> np.ndarray | None:
        """Return the squared distances float32 [n] of a query float32 [D] to these rows, or None (see `FileRows`)."""
        return self._pooled.distances(places, query)

    def blocks(self) -> Blocks:
        """Yield all keys and descriptors, read from the file block by block, so that they are not held in memory."""
        for start in range(0, len(self.keys), BLOCK):
            yield self.keys[start : start + BLOCK], self._pooled[start : start + BLOCK]


def write_descriptors(path: Path, blocks: Blocks, images: int, dim: int, queries: np.ndarray | None = None) -> None:
    """Write the file of `images` images, whose keys ascend. Raises OSError."""
    with closing(Sink(path)) as sink, sink.checked(), h5py.File(sink, "w") as file:
        file.attrs["format"] = FORMAT
        file.attrs["version"] = PLAIN
        stored_keys = file.create_dataset("key", (images,), "<i8")
        stored = file.create_dataset("pooled", (images, dim), "<f4")
        done = 0
        for keys, descriptors in blocks:
            stored_keys[done : done + len(keys)] = keys
            stored[done : done + len(keys)] = descriptors
            done += len(keys)
        if queries is not None:
            file.create_dataset("queries", data=queries)


def evenly_spaced(blocks: Blocks, images: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
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


def joined_blocks(blocks: Blocks, size: int) -> Blocks:
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


def _remedy(path: Path) -> str:
    return f"rebuild it with `spade-index index {path.parent.parent}`"
