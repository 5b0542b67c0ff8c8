"""Changing a gallery: add, remove, restore, compact, index. One writer at a time; every change is one commit.

How it is opened is in `writer_open`, what is deleted in `disuse`; longer changes are in `ingest`, `compact`, `repair`
and `index_commit`.
"""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spade_index.errors import GalleryDamaged, InputError, StorageError, UnknownImage, storage_errors
from spade_index.gallery.catalog.changes import new_snapshot, restore_image
from spade_index.gallery.catalog.images import ImageRow
from spade_index.gallery.catalog.moments import image_moments
from spade_index.gallery.index.index import IndexDescription
from spade_index.gallery.verify import Problem, find_problems
from spade_index.images.find import ImageFile
from spade_index.settings import BATCH_SIZE, WORKERS, ExtractionSettings, IndexSettings

from .cleanup import begin_generation, delete_unused
from .compact import compact, sparse
from .ingest import AddReport, Ingest
from .lock import WriterLock
from .opening import note_catalog, open_for_writing
from .reindex import rebuild_index
from .repair import repair

if TYPE_CHECKING:
    from spade_index.features.backbone import Backbone

SHARD_BYTES = 512 << 20  # of maps; a crash loses at most one shard's work
SHARD_ROWS = 1024
RESERVE = 16 << 20  # bytes to leave free on the disk, for the catalog


class GalleryWriter:
    """Holds the gallery's lock. Use as a context manager."""

    def __init__(
        self, path: str | Path, settings: ExtractionSettings | None = None, weights_file: str | None = None
    ) -> None:
        """Open a gallery for writing; with `settings`, create it if there is none.

        A new gallery remembers `weights_file` as the place to look for its backbone's weights. Leftovers of
        a crash are removed, and what has fallen out of use. Raises GalleryNotFound, GalleryLocked, StorageError,
        SettingsMismatch (the gallery has other settings), or InputError (the folder holds something else).
        """
        self.path = Path(path)
        self._lock = WriterLock(self.path)
        try:
            with storage_errors(self.path):
                self.gallery = open_for_writing(self.path, self._lock, settings, weights_file)
                self.forget()
        except BaseException:
            self._lock.release()
            raise
        self.settings = self.gallery.settings
        self.shard_rows = max(1, min(SHARD_ROWS, SHARD_BYTES // self.settings.map_bytes))

    def __enter__(self) -> "GalleryWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *exception: object) -> None:
        try:
            with suppress(StorageError):  # then the next writer does it
                self.forget()
                if kind is None or not issubclass(kind, GalleryDamaged):
                    note_catalog(self.gallery.catalog)
        finally:
            self.gallery.close()
            self._lock.release()

    def add(
        self,
        files: Iterable[ImageFile],
        backbone: "Backbone",
        *,
        replace: bool = False,
        strict: bool = False,
        batch_size: int = BATCH_SIZE,
        workers: int = WORKERS,
        processes: bool = False,
        notice: Callable[[str], None] = lambda line: None,
        progress: Callable[[int], None] = lambda images: None,
    ) -> AddReport:
        """Add images; those that are there already are not read again, so an interrupted call can be repeated.

        An image with a known id and other contents is kept as it was, or replaced. One that cannot be decoded is
        named to `notice` and left out; with `strict` it raises ImageError after what came before is committed.
        `progress` is told of every image that is done with. Images are decoded in `workers` threads, or processes,
        which are faster where images are small and many (see `load_all`).
        """
        self.settings.require_equal(backbone.settings, str(self.path))
        ingest = Ingest(self, backbone, replace, strict, notice, progress)
        return ingest.run(files, batch_size, workers, processes)

    def remove(self, ids: Iterable[str]) -> int:
        """Remove images by id, all or none; returns the new snapshot. Raises UnknownImage."""
        with storage_errors(self.path):
            rows = [self.gallery.image(id) for id in dict.fromkeys(ids)]
            if not rows:
                raise UnknownImage("no image id was given")
            moments = self.moments(minus=map(self.stored_moments, rows))
            with self.gallery.catalog.transaction() as db:
                snapshot = new_snapshot(db, "remove", len(self.gallery) - len(rows), moments)
                db.executemany("UPDATE images SET removed = ? WHERE key = ?", [(snapshot, row.key) for row in rows])
        self.gallery.at(snapshot)
        return snapshot

    def restore(self, ids: Iterable[str]) -> int:
        """Take back the removal of images, all or none; returns the new snapshot.

        Each is as it was when it was last removed. Raises UnknownImage if no removed image has that id (`compact`
        forgets them), InputError if an image has it now, or if the same file is there under another id: `add` skips
        such copies, since a query would find them twice.
        """
        with storage_errors(self.path):
            rows = [self._removed_image(id) for id in dict.fromkeys(ids)]
            if not rows:
                raise UnknownImage("no image id was given")
            self._require_no_copies(rows)
            moments = self.moments(plus=map(self.stored_moments, rows))
            with self.gallery.catalog.transaction() as db:
                # New rows: a score names its snapshot, so what earlier ones hold must not change.
                snapshot = new_snapshot(db, "restore", len(self.gallery) + len(rows), moments)
                for row in rows:
                    restore_image(db, row.key, snapshot)
        self.gallery.at(snapshot)
        return snapshot

    def _removed_image(self, id: str) -> ImageRow:
        catalog = self.gallery.catalog
        if catalog.image_by_id(id, self.gallery.snapshot) is not None:
            raise InputError(f"{self.path}: image {id!r} is there; `spade-index list --removed` names removed ones")
        row = catalog.removed_image(id)
        if row is None:
            raise UnknownImage(
                f"{self.path}: no removed image {id!r}; `spade-index list --removed` names them, `compact` forgets them"
            )
        return row

    def _require_no_copies(self, rows: list[ImageRow]) -> None:
        there = self.gallery.catalog.ids_by_digest([row.digest for row in rows], self.gallery.snapshot)
        for row in rows:
            if (other := there.setdefault(row.digest, row.id)) != row.id:
                raise InputError(
                    f"{self.path}: image {row.id!r} is the same file as {other!r}, which would be found twice: remove "
                    f"{other!r} first, or restore one of them"
                )

    def index_is_stale(self) -> bool:
        """Whether so much was added or removed since the index was built that it should be built again."""
        index = self.gallery.index_info()
        return len(self.gallery) > 0 if index is None else bool(index["stale"])

    def index_settings(self) -> IndexSettings:
        """Those of the latest index, or the defaults."""
        row = self.gallery.catalog.latest_index()
        return IndexDescription.from_json(row.description).settings() if row else IndexSettings()

    def build_index(
        self,
        settings: IndexSettings | None = None,
        queries: np.ndarray | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> IndexDescription:
        """Build the FAISS index of the latest snapshot, by default with the settings and queries of the one before.

        The recall is measured with `queries`, descriptors float32 [q, D] of images like those that will be searched
        for, or, if there never were any, with images of the gallery. `say` is told what is being done. Raises
        InputError for an empty gallery, or if the settings' memory is too little.
        """
        return rebuild_index(self, settings, queries, say)

    def compact(self, progress: Callable[[int], None] = lambda images: None) -> int:
        """Forget removed images and earlier snapshots; rewrite shards that hold removed images or few images.

        Returns the bytes that become free: at once, or when the readers of earlier generations have closed and `forget`
        is called (so does the next writer). `progress` is told of images that have moved, of `images_to_move`.
        """
        return compact(self, progress)

    def repair(
        self,
        problems: Iterable[Problem] | None = None,
        say: Callable[[str], None] = lambda line: None,
        progress: Callable[[int], None] = lambda images: None,
    ) -> int:
        """Drop what is damaged, and keep the rest; how many images were dropped that had not been removed.

        `problems` are those that `find_problems` found since the gallery was opened for writing, by default those that
        it finds now. `say` is told of everything that is done, `progress` of images that are read again. Raises
        GalleryDamaged for what cannot be repaired: the catalog.
        """
        return repair(
            self, find_problems(self.gallery, lambda count: None) if problems is None else problems, say, progress
        )

    def images_to_move(self) -> int:
        """How many images `compact` is going to rewrite."""
        return sum(sparse(self).values())

    def next_generation(self, db: sqlite3.Connection) -> None:
        """Inside a transaction that takes something out of use: those who read before it may need that further on."""
        begin_generation(self.gallery, db)

    def forget(self) -> bool:
        """Delete what has fallen out of use, and leftovers of a crash; False if a reader may still need it."""
        with storage_errors(self.path):
            return delete_unused(self.gallery)

    def set_calibration(self, key: str, value: dict[str, object]) -> None:
        """Store the thresholds of search settings."""
        with storage_errors(self.path), self.gallery.catalog.transaction() as db:
            db.execute("INSERT OR REPLACE INTO calibrations VALUES (?, ?)", (key, json.dumps(value)))

    def stored_moments(self, row: ImageRow) -> list[list[int]]:
        """The moments of an image's maps, a list for each level. Raises GalleryDamaged if they have changed."""
        return [image_moments(values) for values in self.gallery.features(row).maps]

    def moments(self, plus: Iterable[list[list[int]]] = (), minus: Iterable[list[list[int]]] = ()) -> str:
        """The gallery's moments with some images more and some less, as JSON."""
        totals = np.array(self.gallery.moments, dtype=object)  # Python's whole numbers have no limit
        for moments in plus:
            totals = totals + np.array(moments, dtype=object)
        for moments in minus:
            totals = totals - np.array(moments, dtype=object)
        return json.dumps(totals.tolist())

    def moments_of(self, rows: Iterable[ImageRow], progress: Callable[[int], None]) -> str:
        """The moments of these images together, as JSON."""
        totals = np.zeros((len(self.settings.levels), 3), dtype=object)
        for row in rows:
            totals = totals + np.array(self.stored_moments(row), dtype=object)
            progress(1)
        return json.dumps(totals.tolist())

    def shard_path(self, number: int) -> Path:
        """Where a new shard goes."""
        folder = self.path / "shards"
        folder.mkdir(exist_ok=True)
        return folder / f"{number:06d}.h5"

    def require_room(self, images: int) -> None:
        """Raise StorageError unless the disk has room for so many images."""
        needed = images * (self.settings.map_bytes + 4 * self.settings.pooled_dim + (16 << 10)) + RESERVE
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise StorageError(
                f"{self.path}: the disk is full ({free >> 20} MB free, {needed >> 20} MB needed); what was committed "
                "is safe: make room and run the same command again"
            )
