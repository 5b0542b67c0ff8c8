"""The images that an index does not hold: those that came after it, or all where there is none."""

from collections.abc import Sequence

import numpy as np

from spade_index.gallery.snapshot import Place, SnapshotView

from .descriptors import Blocks, joined_blocks

KEPT_BYTES = 32 << 20  # of descriptors that are kept in memory
BLOCK = 1024  # descriptors that are compared at a time
TOGETHER = 100  # shards that an object store is asked for at once


class Delta:
    """Descriptors of images added after a snapshot: kept in memory as far as there is room, others read each time.

    Images that were added one by one lie in a shard each; in memory they are together.
    """

    def __init__(self, images: SnapshotView, after: int) -> None:
        """Find the images that were added after snapshot `after`."""
        self._images = images
        self._places = list(images.places(after))
        room = KEPT_BYTES // (4 * images.settings.pooled_dim)
        ends = np.cumsum([len(keys) for _, _, keys in self._places])
        self._most = int(np.searchsorted(ends, room, "right"))  # places that are kept
        self._kept: list[tuple[np.ndarray, np.ndarray]] | None = None  # once they are needed

    def blocks(self) -> Blocks:
        """Yield keys int64 [n] and descriptors float32 [n, D]. Raises GalleryError."""
        if self._kept is None:
            self._kept = list(self._read(0, self._most))
        yield from self._kept
        yield from self._read(self._most, len(self._places))

    def _read(self, first: int, end: int) -> Blocks:
        return joined_blocks(self._blocks_of(self._places[first:end]), BLOCK)

    def _blocks_of(self, places: Sequence[Place]) -> Blocks:
        for start in range(0, len(places), TOGETHER):
            some = places[start : start + TOGETHER]
            self._images.shards.expect_pooled([(shard, rows) for shard, rows, _ in some])
            for shard, rows, keys in some:
                yield keys, self._images.descriptors(shard, rows)
