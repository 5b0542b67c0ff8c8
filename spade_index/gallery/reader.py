"""A gallery: a directory of shards, a catalog and an index, seen at one snapshot.

GALLERY/
  catalog.sqlite        images, shards, snapshots, settings: the only mutable file, and the commit point
  shards/, index/       files that never change once they are committed: features, the index of a snapshot
  readers/3             locked by the readers of generation 3 (see `generations`)
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from spade_index.errors import GalleryDamaged, InputError, UnknownImage
from spade_index.gallery.catalog.catalog import Catalog
from spade_index.gallery.catalog.check import REMEDY
from spade_index.gallery.catalog.tables import ImageRow, ShardRow
from spade_index.gallery.index.descriptors import Blocks
from spade_index.gallery.index.lists import Scan, scan_here
from spade_index.gallery.index.search import ImageSearch, Neighbour
from spade_index.gallery.index.state import index_state
from spade_index.gallery.store.codecs import MapCodec
from spade_index.gallery.store.moments import Totals, moments_variance, read_moments
from spade_index.gallery.store.record import StoredImage
from spade_index.gallery.store.storage import MapStorage, require_stored
from spade_index.images.interest import RegionOfInterest
from spade_index.paths import path_of
from spade_index.settings import SearchSettings

from . import generations
from .described import described
from .location import Location
from .shards import Shards
from .snapshot import Maps, SnapshotView
from .verify import Checks, Problem, Progress, bytes_to_check, find_problems, shard_problems

CATALOG = "catalog.sqlite"
LATEST = 2**63 - 1  # snapshot that a catalog can hold


class Gallery:
    """The images of a gallery at one snapshot, for reading.

    What it reads stays the same, to the bit, until it is closed, whatever others commit, index or compact. Where no
    lock is held (see `generations.hold`), a compaction ends that: GalleryError. `open_gallery` opens those in stores.
    """

    def __init__(self, path: str | Path, snapshot: int | None = None) -> None:
        """Open a gallery at its latest snapshot, or at an earlier one.

        Raises GalleryNotFound, FormatTooNew, GalleryDamaged, StorageError where it cannot be read now, or InputError if
        there is no such snapshot, or no gallery can be at such a path.
        """
        self.folder = path_of(path, "the gallery")
        catalog = Catalog(self.folder / CATALOG)
        self._open(self.folder, catalog, Shards(self.folder / "shards", catalog), snapshot)

    def _open(self, path: Path | Location, catalog: Catalog, shards: Shards, snapshot: int | None) -> None:
        self.path = path  # as errors name it
        self.catalog = catalog
        self.settings = catalog.settings
        self._shards = shards
        self._lock: generations.GenerationLock | None = None
        self.at(snapshot)

    def file(self, name: str) -> Path:
        """Return the path of a file that the catalog names, such as `index/000007.faiss`."""
        return self.folder / name

    def at(self, snapshot: int | None = None) -> None:
        """Move to a snapshot, by default to the latest, and release what only the one before needed.

        Raises InputError if there is no such snapshot, or it was deleted.
        """
        lock = self._locked()  # before anything is read: from now on it stays
        oldest = self.catalog.oldest_snapshot()
        snapshot = self.catalog.latest_snapshot() if snapshot is None else snapshot
        row = self.catalog.snapshot(snapshot) if type(snapshot) is int and oldest <= snapshot <= LATEST else None
        if row is None:
            raise InputError(f"{self.path}: there is no snapshot {snapshot}; `spade-index info` lists them")
        self._lock = lock
        self.storage = self.catalog.storage()  # of the maps of images that are added; after the row: newer or the same
        self.codec, self.stored_levels = self.storage.codec.kind, self.storage.levels_of(self.settings)
        try:
            moments = read_moments(row.moments, len(self.settings.levels), row.images, self.stored_levels)
        except ValueError as error:
            raise GalleryDamaged(f"{self.catalog.path}: snapshot {snapshot} {error}; {REMEDY}") from error
        self.totals = Totals(row.images, moments)
        self._view = SnapshotView(self.path, self.catalog, self._shards, snapshot, row.images)
        self._search: ImageSearch | None = None  # opened when it is needed
        self.index_row = self.catalog.index(snapshot)  # None: all images are compared
        self.interest = self.catalog.interest()  # the part of every picture that counts; None: all of it
        self.region_rule = self.catalog.region_rule()  # by which each picture has a part of its own that counts
        self._region = lru_cache(32)(self.catalog.region)  # 1 MiB each at most

    def _locked(self) -> generations.GenerationLock | None:
        """Return a lock on the current generation, if one can be held: the one that is held already, if it is that."""
        while True:
            generation = self.catalog.generation()
            if self._lock is not None and self._lock.generation == generation:
                return self._lock
            lock = generations.hold(self.folder, generation)
            if self.catalog.generation() == generation:  # else it may be over, and its files deleted
                return lock

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.name if isinstance(self.path, Location) else self.path.resolve().name

    @property
    def never_used(self) -> bool:
        """Whether nothing was ever added: the build that made it failed, and its settings bind nobody."""
        return self.catalog.latest_snapshot() == 0

    @property
    def snapshot(self) -> int:
        """The snapshot that this gallery is at."""
        return self._view.snapshot

    def __len__(self) -> int:
        return len(self._view)

    def __enter__(self) -> "Gallery":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        self.catalog.close()
        self._shards.close()
        self._search = None
        self._lock = None

    def images(self) -> Iterator[ImageRow]:
        """Yield all images, in the order in which they were added."""
        return self._view.images()

    def sample(self, count: int) -> list[ImageRow]:
        """Return up to `count` images, evenly spread over the order in which they were added; the same each time."""
        return self._view.sample(count)

    def image(self, id: str) -> ImageRow:
        """Return one image by its id. Raises UnknownImage."""
        row = self.catalog.image_by_id(id, self.snapshot)
        if row is None:
            raise UnknownImage(f"{self.path}: no image {id!r}; `spade-index list` names them")
        return row

    def removed_images(self) -> Iterator[ImageRow]:
        """Yield the images that `restore` can take back, in the order in which they were added."""
        tiled = self.settings.preprocessing.tile is not None
        yield from self.catalog.removed_tiles() if tiled else self.catalog.removed_images()

    def nearest(self, pooled: np.ndarray, k: int, scan: Scan = scan_here) -> list[list[Neighbour]]:
        """Return the k nearest images of each query descriptor, float32 [B, D]: exact distances, ties to the lowest id.

        FAISS proposes; distances are of the stored descriptors, and do not depend on the index or the batch. Fewer than
        k where the gallery holds fewer. `scan` scans the lists of an index. Raises GalleryDamaged.
        """
        return self._searched(lambda search: search.nearest(pooled, min(k, len(self)), scan))

    def nearest_of(self, pooled: np.ndarray, keys: np.ndarray, k: int) -> list[list[Neighbour]]:
        """Return what `nearest` does among the images with these keys int64 [n] alone, comparing with all of them."""
        return self._searched(lambda search: search.nearest_of(pooled, keys, min(k, len(keys))))

    def _searched(self, search: Callable[[ImageSearch], list[list[Neighbour]]]) -> list[list[Neighbour]]:
        self._view.require_kept()
        if self._search is None:
            with self._shards.in_place():
                self._search = ImageSearch(self._view, self.file, self.index_row)
        found = search(self._search)
        self._view.require_kept()
        return found

    def pooled(self, rows: Sequence[ImageRow]) -> np.ndarray:
        """Return the pooled descriptors of these images, float32 [n, D]."""
        return self._view.pooled(rows)

    def maps(self, keys: Sequence[int], levels: Sequence[int] | None = None) -> list[np.ndarray]:
        """Return the feature maps of the images with these keys, float16 [n, H*W, C] for each level.

        A level that is not stored has no points: [n, 0, C]. With `levels`, only those are read. Raises as `read_maps`.
        """
        shapes = self.storage.value_shapes(self.settings)
        chosen = range(len(shapes)) if levels is None else levels
        maps = [np.empty((len(keys), *shapes[level]), "<f2") for level in chosen]
        self.read_maps(keys, [list(level) for level in maps], levels)
        return maps

    def read_maps(self, keys: Sequence[int], out: Maps, levels: Sequence[int] | None = None) -> None:
        """Read the feature maps of the images with these keys into float16 [H*W, C] arrays, out[level][image].

        With `levels`, `out` holds only those, by number. Levels that are not stored are not read. Raises GalleryDamaged
        for maps that cannot be read or are not finite, and InputError for `levels` that are not stored.
        """
        if levels is None:
            out, levels = [out[level] for level in self.stored_levels], self.stored_levels
        require_stored(self.path, self.stored_levels, levels)
        self._view.read_maps(keys, out, levels)

    def read_codes(self, keys: Sequence[int], out: Maps, levels: Sequence[int], codec: MapCodec) -> None:
        """Read maps as a codec stores them into uint8 [bytes] arrays; raise OtherCodes if some are of another one."""
        require_stored(self.path, self.stored_levels, levels)
        self._view.read_codes(keys, out, levels, codec)

    def expect_maps(self, keys: Sequence[int], levels: Sequence[int] | None = None) -> None:
        """Prepare for maps of these images to be read a few at a time: those in an object store come all at once."""
        self._view.expect_maps(keys, levels)

    def stored(self, row: ImageRow) -> StoredImage:
        """Return all that is stored of an image, compared with its checksum. Raises GalleryDamaged."""
        return self._view.stored(row)

    def in_turn(self) -> AbstractContextManager[None]:
        """Let `stored` and `decoded` be faster inside, where images of a shard follow each other."""
        return self._view.in_turn()

    def storage_of(self, shard: int) -> MapStorage:
        """Return how a shard's maps are stored. Raises GalleryDamaged, and GalleryError if it was deleted."""
        return self._view.storage_of(shard)

    def decoded(self, row: ImageRow) -> StoredImage:
        """Return what `stored` does, with maps as float16. Raises GalleryDamaged."""
        return self._view.decoded(row)

    def thumbnail(self, row: ImageRow) -> bytes:
        """Return a small JPEG of an image."""
        return self._view.thumbnail(row)

    def level_variances(self) -> list[float]:
        """Return the variance of each level's values over all images of this snapshot; 1 if it is not stored."""
        return [moments_variance(*moments) if moments[0] else 1.0 for moments in self.totals.moments]

    @property
    def is_limited(self) -> bool:
        """Whether there is a region of interest, for all pictures or for each."""
        return self.interest is not None or self.region_rule is not None

    def own_region(self, key: int) -> RegionOfInterest | None:
        """Return the region of interest that an image has as its own, by its key; None: all of it counts."""
        number = None if self.region_rule is None else self.catalog.region_numbers(self.region_rule, [key]).get(key)
        return None if number is None else self._region(number)

    def calibration_key(self, search: SearchSettings) -> str:
        """Return what a calibration for search settings is stored under: these, and the region of interest."""
        key = search.calibration_key()
        if (region := self.interest or self.region_rule) is None:
            return key
        return json.dumps({**json.loads(key), "region_of_interest": region.digest}, sort_keys=True)

    def info(self) -> dict[str, Any]:
        """Describe this gallery in values that JSON knows."""
        region = self.interest or self.region_rule
        return {
            "path": str(self.path),
            "snapshot": self.snapshot,
            "images": len(self),
            **described(self.catalog),
            "settings": asdict(self.settings),
            "level_variances": self.level_variances(),
            "index": self.index_info(),
            "region_of_interest": None if region is None else region.described(),
            "maps": self.codec,
            "stored_levels": list(self.stored_levels),
            "bytes_per_image": self.storage.map_bytes(self.settings) + 4 * self.settings.pooled_dim,
        }

    def index_info(self) -> dict[str, Any] | None:
        """Describe the index, the changes since it was built, and whether it should be rebuilt (`stale`)."""
        return None if self.index_row is None else index_state(self.catalog, self.index_row, self.snapshot)

    def blocks(self) -> Blocks:
        """Yield keys int64 [n] and pooled descriptors float32 [n, D] of all images, shard by shard."""
        return self._view.blocks()

    def verify(self, progress: Progress = lambda count: None) -> Iterator[str]:
        """Check every file against what was committed; yield one line per problem; `progress` is called with bytes."""
        yield from (problem.line for problem in self.problems(progress))

    def problems(self, progress: Progress = lambda count: None, elsewhere: Checks | None = None) -> Iterator[Problem]:
        """Yield what `verify` finds, as `GalleryWriter.repair` takes it; shards are checked `elsewhere`, or here."""
        return find_problems(self._view, progress, elsewhere)

    def problems_of(self, shard: ShardRow, progress: Progress) -> Iterator[Problem]:
        """Yield the problems of one shard."""
        return shard_problems(self._view, shard, progress)

    def bytes_to_check(self) -> int:
        """Return the number of bytes that `verify` reads."""
        return bytes_to_check(self._view)
