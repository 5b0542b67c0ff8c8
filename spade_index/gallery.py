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
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import readers
from .catalog import Catalog, ImageRow
from .catalog_check import REMEDY
from .descriptors import Blocks, Descriptors, descriptors_file
from .errors import GalleryDamaged, GalleryError, InputError, UnknownImage
from .index import Index, IndexDescription, scan
from .moments import moments_variance, read_moments
from .shard import Features, Shard, ShardLayout, is_finite
from .verify import find_problems

CATALOG = "catalog.sqlite"
SPARE = 16  # candidates asked for beyond K, so that rounding in FAISS cannot hide a neighbour
ROUNDING = 1e-4  # relative; far above what float32 differences lose
OPEN_SHARDS = 200  # shards held open, of two file descriptors each
STALE = 0.1  # share of an index's images added or removed since, above which it should be built again


@dataclass(frozen=True)
class Neighbour:
    """A normal image that is near a query."""

    id: str
    key: int
    distance: float  # squared L2 between pooled descriptors


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
        self._index: Index | None = None
        self._descriptors: Descriptors | None = None  # of the index's images
        self._index_row = self.catalog.index(snapshot)
        self._removed = np.empty(0, np.int64)  # keys that the index proposes and that are gone
        self._delta: list[tuple[int, np.ndarray, np.ndarray]] | None = None  # None until the index is opened

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
        self._index = None
        self._reading = None

    def images(self) -> Iterator[ImageRow]:
        """All images, in the order in which they were added."""
        yield from self.catalog.images(self.snapshot)
        self._require_kept()

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
        self._require_kept()
        k = min(k, len(self))
        found: list[list[Neighbour]] = [[] for _ in pooled]
        pending = list(range(len(pooled))) if k else []
        self._open_index()
        described = self._index.description if self._index else None
        count = max(k + SPARE, described.count(k) if described else 0)
        while pending:
            distances, keys = self._candidates(pooled[pending], count)
            uncertain = []
            for position, query in enumerate(pending):
                proposed = keys[position][keys[position] >= 0]
                if len(proposed) < min(count, len(self)):
                    self._require_kept()
                    raise GalleryDamaged(
                        f"{self.path}: the index lacks images: rebuild it with `spade-index index {self.path}`"
                    )
                found[query] = self._rank(pooled[query], proposed, k)
                if described is not None and not described.exact:
                    continue  # its distances say nothing about ties
                # Ties may go on beyond the last candidate.
                limit = found[query][-1].distance * (1 + ROUNDING)
                if len(proposed) < len(self) and float(distances[position][len(proposed) - 1]) <= limit:
                    uncertain.append(query)
            pending, count = uncertain, 4 * count
        self._require_kept()
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
                raise self._compacted()
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
            raise self._compacted() from error

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
            "stale": added + removed > STALE * description.images,
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
        for shard, rows, keys in self._located(after):
            yield keys, self._block(shard, rows)

    def _candidates(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Distances and keys: from the index, and exactly from what came after it.

        [B, up to count], ascending; of an index whose distances are not exact, `count` of either.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        delta = self._open_index()
        indexed = [self._index.search(queries, count, self._removed)] if self._index else []
        exact = self._index is None or self._index.description.exact
        found = [*indexed] if exact else []
        for shard, rows, keys in delta:
            found.append(scan(queries, keys, self._block(shard, rows), count))
            if len(found) > 16:
                found = [_merge(found, count)]
        if exact:
            return _merge(found, count)
        return _merge([*indexed, _merge(found, count)] if found else indexed, 2 * count)

    def _rank(self, query: np.ndarray, keys: np.ndarray, k: int) -> list[Neighbour]:
        """The k nearest of these images: exact distances, ties to the lowest id."""
        differences = self._stored(keys).astype(np.float64) - query.astype(np.float64)
        distances = (differences**2).sum(1).astype(np.float32)  # [n]
        near = np.flatnonzero(distances <= np.partition(distances, k - 1)[k - 1]) if k < len(keys) else range(len(keys))
        ids = self.catalog.ids([int(keys[place]) for place in near])
        if len(ids) < len(near):
            raise self._compacted()
        ranked = sorted((float(distances[place]), ids[int(keys[place])], int(keys[place])) for place in near)
        return [Neighbour(id, key, distance) for distance, id, key in ranked[:k]]

    def _stored(self, keys: np.ndarray) -> np.ndarray:
        """Pooled descriptors of these images, float32 [n, D]: from the index's file where they are in it."""
        stored = np.empty((len(keys), self.settings.pooled_dim), np.float32)
        places = self._descriptors.places(keys) if self._descriptors else np.full(len(keys), -1)
        there = places >= 0
        if self._descriptors:
            stored[there] = self._descriptors.at(places[there])
        elsewhere = np.flatnonzero(~there)
        rows = self.catalog.images_by_key(keys[elsewhere])
        for place in elsewhere:
            if (row := rows.get(int(keys[place]))) is None:
                raise self._compacted()
            stored[place] = self._shard(row.shard).pooled()[row.row]
        if not np.isfinite(stored).all():  # none such is ever added
            raise GalleryDamaged(f"{self.path}: altered descriptors: `spade-index verify {self.path}` names the file")
        return stored

    def _open_index(self) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """Open the index, once; returns the shard, rows and keys of the images that it does not hold."""
        if self._delta is None:
            after, row = -1, self._index_row
            # Without its file the gallery is searched by scanning; `verify` says that it is missing.
            if row is not None and (path := self.path / "index" / row.file).exists():
                self._index = Index(path, IndexDescription.from_json(row.description))
                with suppress(FileNotFoundError):  # an index of earlier versions has none
                    self._descriptors = Descriptors(descriptors_file(path))
                self._removed = np.array(self.catalog.removed_keys(self.snapshot, since=row.snapshot), np.int64)
                after = row.snapshot
            self._delta = list(self._located(after))
        return self._delta

    def _located(self, after: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
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

    def _block(self, shard: int, rows: np.ndarray) -> np.ndarray:
        pooled = self._shard(shard).pooled()
        return pooled if len(rows) == len(pooled) else pooled[rows]

    def _shard(self, number: int) -> Shard:
        if number in self._shards:
            self._shards.move_to_end(number)
            return self._shards[number]
        file = self.catalog.shard_file(number)
        if file is None:
            raise self._compacted()
        while len(self._shards) >= OPEN_SHARDS:
            self._shards.popitem(last=False)
        shard = Shard(self.path / "shards" / file, self.settings, self._layouts.get(number))
        self._layouts[number] = shard.layout
        self._shards[number] = shard
        return shard

    def _hold(self) -> readers.Reading | None:
        """A lock on the present generation, if one can be had; the one that is held, if that is it."""
        while True:
            generation = self.catalog.generation()
            if self._reading is not None and self._reading.generation == generation:
                return self._reading
            reading = readers.hold(self.path, generation)
            if self.catalog.generation() == generation:  # else it may be over, and nothing of it kept for us
                return reading

    def _require_kept(self) -> None:
        """Raise GalleryError if this snapshot was forgotten; if not, what was read before is whole."""
        if self.catalog.snapshot(self.snapshot) is None:
            raise self._compacted()

    def _compacted(self) -> GalleryError:
        return GalleryError(f"{self.path}: snapshot {self.snapshot} was forgotten since it was opened; open it again")


def _merge(found: list[tuple[np.ndarray, np.ndarray]], count: int) -> tuple[np.ndarray, np.ndarray]:
    distances = np.concatenate([d for d, _ in found], axis=1)
    keys = np.concatenate([k for _, k in found], axis=1)
    distances = np.where(keys < 0, np.inf, distances)
    order = np.argsort(distances, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(distances, order, 1), np.take_along_axis(keys, order, 1)
