"""A gallery: a directory of shards, a catalog and an index, seen at one snapshot.

GALLERY/
  catalog.sqlite        images, shards, snapshots, settings: the only mutable file, and the commit point
  shards/000001.h5      immutable once committed
  index/000007.faiss    the FAISS index of snapshot 7; immutable; rebuilt, never edited
  index/000007.h5       the descriptors that its proposals are ranked by, in one file
  readers/3             locked by those who read since generation 3 (see `readers`)
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from spade_index.errors import GalleryDamaged, GalleryError, InputError, UnknownImage
from spade_index.gallery.catalog.catalog import Catalog
from spade_index.gallery.catalog.check import REMEDY
from spade_index.gallery.catalog.images import ImageRow
from spade_index.gallery.catalog.moments import moments_variance, read_moments
from spade_index.gallery.index.descriptors import Blocks, Descriptors, descriptors_file
from spade_index.gallery.index.index import IndexDescription
from spade_index.gallery.index.search import ImageSearch, Neighbour
from spade_index.gallery.store.layout import ShardLayout
from spade_index.gallery.store.shard import Features, Shard, is_finite

from . import generations as readers
from .verify import find_problems

CATALOG = "catalog.sqlite"
OPEN_SHARDS = 200  # shards held open, of one file descriptor each, or two
STALE = 0.1  # share of an index's images added or removed since, above which it should be built again,
STALE_IMAGES = 20_000  # or how many: then comparing with them takes longer than the index does


class Gallery:
    """The images of a gallery at one snapshot, for reading.

    What it sees stays as it is, to the bit, until it is closed, whatever other processes commit, index or compact.
    Where a lock cannot be had (see `readers.hold`), a compaction ends that with a GalleryError.
    """

    def __init__(self, path: str | Path, snapshot: int | None = None) -> None:
        """Open a gallery at its latest snapshot, or at an earlier one.

        Raises GalleryNotFound, FormatTooNew, GalleryDamaged, or InputError if there is no such snapshot.
        """
        self.path = Path(path)
        self.catalog = Catalog(self.path / CATALOG)
        self.settings = self.catalog.settings
        self._shards: OrderedDict[int, Shard] = OrderedDict()  # the least recently used first
        self._layouts: dict[int, ShardLayout] = {}  # of all that were ever open
        self._reading: readers.Reading | None = None
        self.at(snapshot)

    def at(self, snapshot: int | None = None) -> None:
        """Move to a snapshot, by default to the latest, and let go of what only the one before needed.

        Raises InputError if there is no such snapshot (any more).
        """
        reading = self._hold()  # before anything is read: from now on it stays
        oldest = self.catalog.oldest_snapshot()
        snapshot = self.catalog.latest_snapshot() if snapshot is None else snapshot
        row = self.catalog.snapshot(snapshot) if snapshot >= oldest else None
        if row is None:
            raise InputError(f"{self.path}: there is no snapshot {snapshot}; `spade-index info` lists them")
        self._reading = reading
        self.snapshot: int = snapshot
        self._images: int = row["images"]
        try:
            self.moments = read_moments(row["moments"], len(self.settings.levels), self._images)
        except ValueError as error:
            raise GalleryDamaged(f"{self.catalog.path}: snapshot {snapshot} {error}; {REMEDY}") from error
        self._search: ImageSearch | None = None  # opened when it is needed
        self._index_row = self.catalog.index(snapshot)

    def __len__(self) -> int:
        return self._images

    def __enter__(self) -> "Gallery":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        self.catalog.close()
        self._shards.clear()
        self._search = None
        self._reading = None

    def images(self) -> Iterator[ImageRow]:
        """All images, in the order in which they were added."""
        yield from self.catalog.images(self.snapshot)
        self.require_kept()

    def image(self, id: str) -> ImageRow:
        """One image by its id. Raises UnknownImage."""
        row = self.catalog.image_by_id(id, self.snapshot)
        if row is None:
            raise UnknownImage(f"{self.path}: no image {id!r}; `spade-index list` names them")
        return row

    def removed_images(self) -> Iterator[ImageRow]:
        """The images that `restore` can take back, in the order in which they were added."""
        yield from self.catalog.removed_images()

    def nearest(self, pooled: np.ndarray, k: int) -> list[list[Neighbour]]:
        """The k nearest images of each query descriptor, float32 [B, D]: exact distances, ties to the lowest id.

        FAISS proposes; distances are computed again from the stored descriptors, so they do not depend on the index
        or on the size of the batch. Fewer than k where the gallery holds fewer.
        """
        self.require_kept()
        if self._search is None:
            self._search = ImageSearch(self, self._index_row)
        found = self._search.nearest(pooled, min(k, len(self)))
        self.require_kept()
        return found

    def pooled(self, rows: Sequence[ImageRow]) -> np.ndarray:
        """Pooled descriptors of these images, float32 [n, D]."""
        return np.stack([self._shard(row.shard).pooled()[row.row] for row in rows])

    def maps(self, keys: Sequence[int]) -> list[np.ndarray]:
        """Feature maps of these images, float16 [n, H*W, C] for each level."""
        maps = [np.empty((len(keys), h * w, c), "<f2") for c, h, w in self.settings.level_shapes]
        self.read_maps(keys, [list(level) for level in maps])
        return maps

    def read_maps(self, keys: Sequence[int], out: list[list[np.ndarray]]) -> None:
        """Read feature maps of these images into float16 [H*W, C] arrays, out[level][image].

        Raises GalleryDamaged where they cannot be read, or are no numbers and not what was added.
        """
        rows = self.catalog.images_by_key(keys)
        for place, key in enumerate(keys):
            if key not in rows:
                raise self.forgotten()
            row, maps = rows[key], [level[place] for level in out]
            shard = self._shard(row.shard)
            shard.read_maps(row.row, maps)
            if not all(map(is_finite, maps)):
                shard.read_whole(row.row, row.id)

    def features(self, row: ImageRow) -> Features:
        """All that is stored of an image, after its checksum was compared. Raises GalleryDamaged."""
        return self._shard(row.shard).read_whole(row.row, row.id)

    def thumbnail(self, row: ImageRow) -> bytes:
        """A small JPEG of an image."""
        try:
            return self._shard(row.shard).thumbnail(row.row)
        except FileNotFoundError as error:
            raise self.forgotten() from error

    def level_variances(self) -> list[float]:
        """The variance of each level's values over all images of this snapshot."""
        if not self._images:
            return [1.0] * len(self.settings.levels)
        return [moments_variance(*moments) for moments in self.moments]

    def info(self) -> dict[str, Any]:
        """What this gallery is, in values that JSON knows."""
        shards = self.catalog.shards()
        return {
            "path": str(self.path),
            "created": self.catalog.meta("created"),
            "format_version": int(self.catalog.meta("version") or 0),
            "snapshot": self.snapshot,
            "snapshots": [
                {key: row[key] for key in ("snapshot", "created", "action", "images")}
                for row in self.catalog.snapshots()
            ],
            "images": len(self),
            "removed_images": self.catalog.removed_count(),
            "shards": len(shards),
            "shard_bytes": sum(row["bytes"] for row in shards.values()),
            "settings": asdict(self.settings),
            "level_variances": self.level_variances(),
            "index": self.index_info(),
            "calibrations": self.catalog.calibrations(),
        }

    def index_info(self) -> dict[str, Any] | None:
        """What the index is, what has changed since, and whether it is stale: so much that it should be built again."""
        row = self._index_row
        if row is None:
            return None
        description = IndexDescription.from_json(row.description)
        added = self.catalog.added_count(self.snapshot, since=row.snapshot)
        removed = len(self.catalog.removed_keys(self.snapshot, since=row.snapshot))
        return {
            "snapshot": row.snapshot,
            **asdict(description),
            "added_since": added,
            "removed_since": removed,
            "stale": added + removed > min(STALE * description.images, STALE_IMAGES),
        }

    def index_queries(self) -> np.ndarray | None:
        """The descriptors float32 [q, D] that the index was tuned on, or None: on images of its own."""
        row = self.catalog.latest_index()
        try:
            return Descriptors(descriptors_file(self.path / "index" / row.file)).queries if row else None
        except (FileNotFoundError, GalleryDamaged):
            return None

    def verify(self, progress: Callable[[int], None] = lambda count: None) -> Iterator[str]:
        """Check every file against what was committed; yields one line per problem. `progress` is told of bytes."""
        for problem in find_problems(self, progress):
            yield problem.line

    def blocks(self, after: int = -1) -> Blocks:
        """Keys int64 [n] and pooled descriptors float32 [n, D] of the images added after a snapshot, shard by shard."""
        for shard, rows, keys in self.located(after):
            yield keys, self.block(shard, rows)

    def located(self, after: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Shard, rows and keys of the images added after a snapshot."""
        shard = -1
        rows: list[int] = []
        keys: list[int] = []
        for image in self.catalog.images(self.snapshot, after):
            if image.shard != shard and rows:
                yield shard, np.array(rows), np.array(keys, np.int64)
                rows, keys = [], []
            shard = image.shard
            rows.append(image.row)
            keys.append(image.key)
        if rows:
            yield shard, np.array(rows), np.array(keys, np.int64)

    def block(self, shard: int, rows: np.ndarray) -> np.ndarray:
        """Pooled descriptors of some rows of a shard, float32 [n, D]; of all of them, mapped from the file."""
        pooled = self._shard(shard).pooled()
        return pooled if np.array_equal(rows, np.arange(len(pooled))) else pooled[rows]

    def _shard(self, number: int) -> Shard:
        if number in self._shards:
            self._shards.move_to_end(number)
            return self._shards[number]
        file = self.catalog.shard_file(number)
        if file is None:
            raise self.forgotten()
        while len(self._shards) >= OPEN_SHARDS:
            self._shards.popitem(last=False)
        path = self.path / "shards" / file
        shard = Shard(path, self.settings, self._layouts.get(number) or self.kept_layout(number, path))
        self._layouts[number] = shard.layout
        self._shards[number] = shard
        return shard

    def kept_layout(self, number: int, path: Path) -> ShardLayout | None:
        """Where the values of a shard lie in its file, if the catalog knows, and the file looks as it did."""
        kept = self.catalog.layout(number)
        return None if kept is None else ShardLayout.recall(kept, number, path, self.settings)

    def _hold(self) -> readers.Reading | None:
        """A lock on the present generation, if one can be had; the one that is held, if that is it."""
        while True:
            generation = self.catalog.generation()
            if self._reading is not None and self._reading.generation == generation:
                return self._reading
            reading = readers.hold(self.path, generation)
            if self.catalog.generation() == generation:  # else it may be over, and nothing of it kept for us
                return reading

    def require_kept(self) -> None:
        """Raise GalleryError if this snapshot was forgotten; if not, what was read before is whole."""
        if self.catalog.snapshot(self.snapshot) is None:
            raise self.forgotten()

    def forgotten(self) -> GalleryError:
        """What to raise when something is not there any more."""
        return GalleryError(f"{self.path}: snapshot {self.snapshot} was forgotten since it was opened; open it again")
