"""Changing a gallery: add, remove, compact, index. One writer at a time; every change is one commit."""

import errno
import fcntl
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from .backbone import Backbone
from .catalog import Catalog, ImageRow, new_snapshot
from .errors import GalleryLocked, ImageError, InputError, StorageError, UnknownImage
from .gallery import CATALOG, Gallery, image_moments
from .images import DecodedImage, ImageFile, load_all
from .index import IndexDescription, build_index
from .settings import ExtractionSettings
from .shard import ShardWriter, file_digest, fsync_folder

SHARD_BYTES = 512 << 20  # of maps; a crash loses at most one shard's work
SHARD_ROWS = 256
STALE = 0.1  # share of an index's images added or removed since, above which it is rebuilt
RESERVE = 16 << 20  # bytes to leave free on the disk, for the catalog
LOCK = "writer.lock"


@dataclass
class AddReport:
    """What became of the images that were handed to `add`."""

    added: int = 0
    replaced: int = 0  # of those added
    unchanged: int = 0  # already there
    copies: int = 0  # there under another id
    changed: int = 0  # there with other contents, and kept as they were
    failed: int = 0  # could not be decoded

    def __str__(self) -> str:
        parts = [f"{self.added:,} added"]
        notes = {
            "replaced": f"{self.replaced:,} of them replaced",
            "unchanged": f"{self.unchanged:,} already there",
            "copies": f"{self.copies:,} skipped as copies",
            "changed": f"{self.changed:,} changed but kept as they were (--replace takes the new ones)",
            "failed": f"{self.failed:,} could not be decoded",
        }
        return ", ".join(parts + [text for name, text in notes.items() if getattr(self, name)])


class GalleryWriter:
    """Holds the gallery's lock. Use as a context manager."""

    def __init__(
        self, path: str | Path, settings: ExtractionSettings | None = None, weights_file: str | None = None
    ) -> None:
        """Open a gallery for writing; with `settings`, create it if there is none.

        A new gallery remembers `weights_file` as the place to look for its backbone's weights. Leftovers of a crash are removed. Raises GalleryNotFound, GalleryLocked, StorageError, SettingsMismatch (the
        gallery has other settings), or InputError (the folder holds something else).
        """
        self.path = Path(path)
        self._lock = -1
        with storage_errors(self.path):
            if settings is not None and not (self.path / CATALOG).exists():
                self._make_folder()
                self._take_lock()
                if not (self.path / CATALOG).exists():
                    Catalog.create(self.path / CATALOG, settings, weights_file).close()
            self.gallery = Gallery(self.path)  # before the lock: a folder that is no gallery is left alone
            if self._lock < 0:
                self._take_lock()
                self.gallery.at(self.gallery.catalog.latest_snapshot())
            if settings is not None:
                self.gallery.settings.require_equal(settings, str(self.path))
            self._remove_leftovers()
        self.settings = self.gallery.settings
        self._shard_rows = max(1, min(SHARD_ROWS, SHARD_BYTES // self.settings.map_bytes))

    def __enter__(self) -> "GalleryWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.gallery.close()
        os.close(self._lock)

    def add(
        self,
        files: Iterable[ImageFile],
        backbone: Backbone,
        *,
        replace: bool = False,
        strict: bool = False,
        batch_size: int = 16,
        workers: int = 2,
        notice: Callable[[str], None] = lambda line: None,
        progress: Callable[[int], None] = lambda images: None,
    ) -> AddReport:
        """Add images; those that are there already are not read again, so an interrupted call can be repeated.

        An image with a known id and other contents is kept as it was, or replaced. One that cannot be decoded is
        named to `notice` and left out; with `strict` it raises ImageError after what came before is committed.
        `progress` is told of every image that is done with.
        """
        self.settings.require_equal(backbone.settings, str(self.path))
        report = AddReport()
        shard = _PendingShard(self)

        def failed(error: ImageError) -> None:
            if strict:
                raise error
            report.failed += 1
            notice(f"skipped {error}")
            progress(1)

        def unknown() -> Iterator[ImageFile]:
            for file in files:
                if self._is_known(file):
                    report.unchanged += 1
                    progress(1)
                else:
                    yield file

        def admitted() -> Iterator[DecodedImage]:
            loaded = load_all(
                unknown(),
                self.settings.preprocessing,
                workers=workers,
                ahead=2 * batch_size + workers,
                on_error=failed,
            )
            for image in loaded:
                if shard.admit(image, replace, report, notice):
                    yield image
                else:
                    progress(1)

        images = admitted()
        try:
            while batch := list(islice(images, batch_size)):
                self._require_room(len(batch))
                with storage_errors(self.path):
                    shard.extend(batch, backbone)
                    if len(shard) >= self._shard_rows:
                        shard.commit()
                progress(len(batch))
        except (ImageError, KeyboardInterrupt):
            with storage_errors(self.path):
                shard.commit()
            raise
        except BaseException:
            shard.abandon()
            raise
        with storage_errors(self.path):
            shard.commit()
        return report

    def remove(self, ids: Iterable[str]) -> int:
        """Remove images by id, all or none; returns the new snapshot. Raises UnknownImage."""
        with storage_errors(self.path):
            rows = [self.gallery.image(id) for id in dict.fromkeys(ids)]
            if not rows:
                raise UnknownImage("no image id was given")
            with self.gallery.catalog.transaction() as db:
                moments = self._moments(minus=[self._stored_moments(row) for row in rows])
                snapshot = new_snapshot(db, "remove", len(self.gallery) - len(rows), moments)
                db.executemany("UPDATE images SET removed = ? WHERE key = ?", [(snapshot, row.key) for row in rows])
        self.gallery.at(snapshot)
        return snapshot

    def index_is_stale(self) -> bool:
        """Whether so much was added or removed since the index was built that it should be built again."""
        row = self.gallery.catalog.index(self.gallery.snapshot)
        if row is None:
            return len(self.gallery) > 0
        indexed = IndexDescription.from_json(row.description).images
        added = sum(1 for _ in self.gallery.catalog.images(self.gallery.snapshot, after=row.snapshot))
        removed = len(self.gallery.catalog.removed_keys(self.gallery.snapshot, since=row.snapshot))
        return added + removed > STALE * indexed

    def build_index(self) -> IndexDescription:
        """Build the FAISS index of the latest snapshot. Raises InputError for an empty gallery."""
        if not len(self.gallery):
            raise InputError(f"{self.path}: the gallery is empty, there is nothing to index")
        with storage_errors(self.path):
            index = self._write_index(self.gallery.snapshot)
            with self.gallery.catalog.transaction() as db:
                _replace_index(db, *index)
            self._remove_leftovers()
        self.gallery.at(self.gallery.snapshot)
        return index[-1]

    def compact(self) -> int:
        """Rewrite shards that hold removed images or few images; forget removed images and earlier snapshots.

        Returns the bytes that became free. Readers at earlier snapshots must open the gallery again.
        """
        catalog = self.gallery.catalog
        before = self.gallery.info()["shard_bytes"]
        live: dict[int, list[ImageRow]] = {number: [] for number in catalog.shards()}
        for row in self.gallery.images():
            live[row.shard].append(row)
        rewrite = {
            number
            for number, shard in catalog.shards().items()
            if len(live[number]) < shard["rows"] or shard["rows"] < self._shard_rows // 2
        }
        rows = sorted((row for number in rewrite for row in live[number]), key=lambda row: row.key)
        with storage_errors(self.path):
            self._require_room(len(rows))
            shards = self._copy(rows)
            with catalog.transaction() as db:
                snapshot = new_snapshot(db, "compact", len(self.gallery), self._moments())
                db.execute("DELETE FROM images WHERE removed IS NOT NULL")
                for number, path, digest, moved in shards:
                    _insert_shard(db, number, path, digest, len(moved))
                    places = [(number, place, row.key) for place, row in enumerate(moved)]
                    db.executemany("UPDATE images SET shard = ?, row = ? WHERE key = ?", places)
                db.executemany("DELETE FROM shards WHERE shard = ?", [(number,) for number in sorted(rewrite)])
                db.execute("DELETE FROM snapshots WHERE snapshot < ?", (snapshot,))
                db.execute("DELETE FROM indexes")  # it may propose images that are forgotten now
            self.gallery.at(snapshot)
            if len(self.gallery):
                self.build_index()
            self._remove_leftovers()
        return before - self.gallery.info()["shard_bytes"]

    def set_calibration(self, key: str, value: dict[str, object]) -> None:
        """Store the thresholds of search settings."""
        with storage_errors(self.path), self.gallery.catalog.transaction() as db:
            db.execute("INSERT OR REPLACE INTO calibrations VALUES (?, ?)", (key, json.dumps(value)))

    def _is_known(self, file: ImageFile) -> bool:
        row = self.gallery.catalog.image_by_id(file.id, self.gallery.snapshot)
        return row is not None and (row.path, row.size, row.mtime_ns) == (file.path, file.size, file.mtime_ns)

    def _stored_moments(self, row: ImageRow) -> list[list[int]]:
        return [image_moments(values[0]) for values in self.gallery.maps([row.key])]

    def _moments(self, plus: Iterable[list[list[int]]] = (), minus: Iterable[list[list[int]]] = ()) -> str:
        totals = np.array(self.gallery.moments, dtype=object)  # Python's whole numbers have no limit
        for moments in plus:
            totals = totals + np.array(moments, dtype=object)
        for moments in minus:
            totals = totals - np.array(moments, dtype=object)
        return json.dumps(totals.tolist())

    def _copy(self, rows: list[ImageRow]) -> list[tuple[int, Path, str, list[ImageRow]]]:
        """Rows copied into new shards: number, path and digest of each, and its rows."""
        shards: list[tuple[int, Path, str, list[ImageRow]]] = []
        for start in range(0, len(rows), self._shard_rows):
            part = rows[start : start + self._shard_rows]
            number = max(self.gallery.catalog.shards(), default=0) + 1 + len(shards)
            writer = ShardWriter(self._shard_path(number), self.settings)
            try:
                for row in part:
                    maps = [values[0] for values in self.gallery.maps([row.key])]
                    writer.append(row.id, self.gallery.pooled([row])[0], maps, self.gallery.thumbnail(row))
                shards.append((number, writer.path, writer.commit(), part))
            except BaseException:
                writer.abandon()
                raise
        return shards

    def _write_index(self, snapshot: int) -> tuple[int, str, str, IndexDescription]:
        folder = self.path / "index"
        folder.mkdir(exist_ok=True)
        path = folder / f"{snapshot:06d}.faiss"
        temporary = path.with_suffix(".tmp")
        description = build_index(temporary, self.gallery.blocks, len(self.gallery), self.settings.pooled_dim)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.rename(temporary, path)
        fsync_folder(folder)
        return snapshot, path.name, file_digest(path), description

    def _shard_path(self, number: int) -> Path:
        folder = self.path / "shards"
        folder.mkdir(exist_ok=True)
        return folder / f"{number:06d}.h5"

    def _require_room(self, images: int) -> None:
        needed = images * (self.settings.map_bytes + 4 * self.settings.pooled_dim + (16 << 10)) + RESERVE
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise StorageError(
                f"{self.path}: the disk is full ({free >> 20} MB free, {needed >> 20} MB needed); what was committed "
                "is safe: make room and run the same command again"
            )

    def _make_folder(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        ours = {LOCK, "shards", "index", CATALOG, Path(CATALOG).with_suffix(".tmp").name}
        if strangers := {entry.name for entry in self.path.iterdir()} - ours:
            raise InputError(f"{self.path}: the folder holds something else ({min(strangers)}): choose a new one")

    def _take_lock(self) -> None:
        self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "unknown"
            raise GalleryLocked(
                f"{self.path}: another process (pid {owner}) is writing to it: wait until it is done"
            ) from error
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _remove_leftovers(self) -> None:
        """Delete files that no commit names: a crash's, or those of an index or a shard that was replaced."""
        catalog = self.gallery.catalog
        named = {row["file"] for row in catalog.shards().values()} | catalog.index_files()
        for folder in (self.path / "shards", self.path / "index"):
            for path in folder.glob("*"):
                if path.name not in named:
                    path.unlink()


class _PendingShard:
    """The shard that is being filled, and what its commit will put into the catalog."""

    def __init__(self, writer: GalleryWriter) -> None:
        self._writer = writer
        self._file: ShardWriter | None = None
        self._images: list[DecodedImage] = []
        self._moments: list[list[list[int]]] = []
        self._ids: dict[str, bytes] = {}
        self._digests: dict[bytes, str] = {}
        self._outdated: list[ImageRow] = []

    def __len__(self) -> int:
        return len(self._images)

    def admit(self, image: DecodedImage, replace: bool, report: AddReport, notice: Callable[[str], None]) -> bool:
        """Whether this image is to be added: new, or changed and to be replaced."""
        gallery, id = self._writer.gallery, image.file.id
        stored = gallery.catalog.image_by_id(id, gallery.snapshot)
        known = self._ids.get(id) or (stored.digest if stored else None)
        if known == image.digest:
            report.unchanged += 1
            return False
        if known is not None and not (replace and id not in self._ids):
            report.changed += 1
            notice(f"kept {id} as it was: {image.file.path} has other contents (--replace takes it)")
            return False
        if known is None:
            twin = gallery.catalog.image_by_digest(image.digest, gallery.snapshot)
            original = self._digests.get(image.digest) or (twin.id if twin else None)
            if original is not None:
                report.copies += 1
                notice(f"skipped {id}: the same file as {original}")
                return False
        if stored is not None:
            self._outdated.append(stored)
            report.replaced += 1
        self._ids[id] = image.digest
        self._digests[image.digest] = id
        report.added += 1
        return True

    def extend(self, batch: list[DecodedImage], backbone: Backbone) -> None:
        """Compute the features of admitted images and write them."""
        if self._file is None:
            number = max(self._writer.gallery.catalog.shards(), default=0) + 1
            self._file = ShardWriter(self._writer._shard_path(number), self._writer.settings)
        features = backbone(np.stack([image.pixels for image in batch]))
        pooled = features.pooled.cpu().numpy()
        pyramid = [level.half().cpu().numpy() for level in features.pyramid]
        for place, image in enumerate(batch):
            maps = [level[place] for level in pyramid]
            self._file.append(image.file.id, pooled[place], maps, image.thumbnail)
            self._moments.append([image_moments(values) for values in maps])
            self._images.append(image)

    def commit(self) -> None:
        """Make the shard and its rows part of the gallery: one snapshot. Nothing happens if it is empty."""
        if self._file is None:
            return
        gallery = self._writer.gallery
        digest = self._file.commit()
        outdated = [self._writer._stored_moments(row) for row in self._outdated]
        number = int(self._file.path.stem)
        with gallery.catalog.transaction() as db:
            count = len(gallery) + len(self) - len(self._outdated)
            snapshot = new_snapshot(db, "add", count, self._writer._moments(self._moments, minus=outdated))
            db.executemany("UPDATE images SET removed = ? WHERE key = ?", [(snapshot, r.key) for r in self._outdated])
            _insert_shard(db, number, self._file.path, digest, len(self))
            for place, image in enumerate(self._images):
                _insert_image(db, image, number, place, snapshot)
        gallery.at(snapshot)
        self.__init__(self._writer)  # type: ignore[misc]

    def abandon(self) -> None:
        """Give up what is not committed."""
        if self._file is not None:
            self._file.abandon()


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the system says about a gallery that cannot be written into a StorageError."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StorageError(f"{path}: the catalog cannot be written ({error})") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            raise StorageError(
                f"{path}: the disk is full; what was committed is safe: make room and run the same command again"
            ) from error
        reason = error.strerror or " ".join(str(error).split())
        raise StorageError(f"{path}: cannot be written ({reason})") from error


def _insert_shard(db: sqlite3.Connection, number: int, path: Path, digest: str, rows: int) -> None:
    db.execute("INSERT INTO shards VALUES (?, ?, ?, ?, ?)", (number, path.name, rows, path.stat().st_size, digest))


def _insert_image(db: sqlite3.Connection, image: DecodedImage, shard: int, row: int, snapshot: int) -> None:
    file, geometry = image.file, image.geometry
    found = (file.path, file.size, file.mtime_ns)
    db.execute(
        "INSERT INTO images (id, shard, row, digest, path, size, mtime_ns, width, height, added) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (file.id, shard, row, image.digest, *found, geometry.width, geometry.height, snapshot),
    )


def _replace_index(db: sqlite3.Connection, snapshot: int, file: str, digest: str, what: IndexDescription) -> None:
    db.execute("DELETE FROM indexes")
    db.execute("INSERT INTO indexes VALUES (?, ?, ?, ?)", (snapshot, file, digest, what.to_json()))
