"""A gallery that is open for writing: its lock, its reader, and the one place where a change is committed.

Operations (`ingest`, `remove`, `compact`, `repair`, `reindex` ...) take a session. It knows none of them.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spade_index.errors import GalleryDamaged, GalleryLocked, StorageError, storage_errors
from spade_index.gallery.catalog.lease import Lease
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.catalog.transaction import Transaction
from spade_index.gallery.reader import CATALOG
from spade_index.gallery.store.moments import Moments, Totals, maps_moments
from spade_index.gallery.store.quantizer import Quantized
from spade_index.paths import path_of
from spade_index.settings import ExtractionSettings

from .cleanup import begin_generation, delete_unused, settle_shards
from .lock import WriterLock
from .opening import asked_codec, note_catalog, open_for_writing

SHARD_BYTES = 512 << 20  # of maps; a crash loses at most one shard's work
SHARD_ROWS = 1024
RESERVE = 16 << 20  # bytes to leave free on the disk, for the catalog
ROW_BYTES = 16 << 10  # of an image besides its features: thumbnail, id, rows of the catalog


class Session:
    """Holds the gallery's lock. Use as a context manager."""

    def __init__(
        self,
        path: str | Path,
        settings: ExtractionSettings | None = None,
        weights_file: str | None = None,
        *,
        maps: str | Quantized | None = None,
    ) -> None:
        """Open a gallery for writing; with `settings`, create it if there is none.

        A new gallery records `weights_file` as the place to look for its backbone's weights, and stores maps by the
        codec `maps`: float16, int8 (a new gallery's default), int4, or what `train.trained_on` returns, which is pq
        with tables. Files that a crash left behind or that have fallen out of use are deleted. Raises GalleryNotFound,
        GalleryLocked, StorageError, SettingsMismatch (the gallery has other settings, or stores maps otherwise), or
        InputError (the folder holds something else, no gallery can be at such a path, there is no such codec, or it
        lacks tables).
        """
        self.path = path_of(path, "the gallery")
        codec = asked_codec(maps)
        self._shard_rows: int | None = None
        self._lock, self._lease = WriterLock(self.path), Lease(self.path / CATALOG)
        try:
            with storage_errors(self.path):
                self.gallery = open_for_writing(self.path, self._lock, self._lease, settings, weights_file, codec)
                self.delete_unused()
        except BaseException:
            self._release()
            raise
        self.settings = self.gallery.settings

    @property
    def map_bytes(self) -> int:
        """The bytes that the maps of an added image take."""
        return self.gallery.storage.map_bytes(self.settings)

    @property
    def shard_rows(self) -> int:
        """The number of images of a full shard, unless another was set."""
        return self._shard_rows or max(1, min(SHARD_ROWS, SHARD_BYTES // self.map_bytes))

    @shard_rows.setter
    def shard_rows(self, rows: int) -> None:
        self._shard_rows = rows

    def __exit__(
        self, kind: type[BaseException] | None = None, error: BaseException | None = None, *traceback: object
    ) -> None:
        try:
            if isinstance(error, GalleryDamaged):
                self.require_own()  # else it is of the files of another
            with suppress(StorageError, GalleryLocked):  # then the next writer does it
                self.require_own()
                with storage_errors(self.path):
                    settle_shards(self.gallery, self._lock)
                self.delete_unused()
                self._lease.release()
                if kind is None or not issubclass(kind, GalleryDamaged):
                    note_catalog(self.gallery.catalog)
        finally:
            self.gallery.close()
            self._release()

    def _release(self) -> None:
        self._lease.release()
        self._lock.release()

    @contextmanager
    def commit(
        self, action: str | None = None, totals: Totals | None = None, *, retires: bool = False
    ) -> Iterator[Transaction]:
        """Commit the changes that are made inside, and move the gallery to the new state.

        With an `action` they begin a new snapshot, with `totals` as its images and moments (by default, unchanged).
        With `retires` they take something out of use, so the next generation begins: readers of earlier ones may
        still need it.
        """
        self.require_own()
        with storage_errors(self.path), self.gallery.catalog.transaction() as changes:
            if action is not None:
                totals = totals or self.gallery.totals
                changes.add_snapshot(action, totals.images, json.dumps(totals.moments))
            yield changes
            if retires:
                begin_generation(self.gallery, changes)
        self.gallery.at()

    def delete_unused(self) -> bool:
        """Delete what has fallen out of use, and what a crash left; return False if a reader may still need it."""
        self.require_own()
        with storage_errors(self.path):
            return delete_unused(self.gallery)

    def require_own(self) -> None:
        """Require that the gallery is still this writer's, before a file of it is written, named or deleted.

        Raises StorageError if another folder has its name by now, or it cannot be read; GalleryLocked if the writer of
        another machine has taken over.
        """
        self._lock.require_own()
        with storage_errors(self.path):
            self._lease.check()

    def note_shards(self, first: int | None) -> None:
        """Note that shards from this number on are being written, or that all are committed.

        Raises what `require_own` does, OSError.
        """
        self.require_own()
        self._lock.note(first)

    def stored_moments(self, image: ImageRow) -> Moments:
        """Return the moments of a stored image's maps. Raises GalleryDamaged if they have changed."""
        return maps_moments(self.gallery.decoded(image).maps)

    def require_room(self, images: int) -> None:
        """Raise StorageError unless the disk has room for this many images."""
        needed = images * (self.map_bytes + 4 * self.settings.pooled_dim + ROW_BYTES) + RESERVE
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise StorageError(
                f"{self.path}: the disk is full ({free >> 20} MB free, {needed >> 20} MB needed); what was committed "
                "is safe: make room and run the same command again"
            )
