"""Which image is in which shard row: commits, snapshots, removals. One SQLite file, the gallery's commit point.

An image row carries the snapshot that added it and the one that removed it: a reader at snapshot s sees
`added <= s < removed`. Every change is one transaction that ends in a new snapshot.

`meta` holds the format and its version, the settings, and two numbers that change: the generation (see `readers`), and
the oldest snapshot, which is that of the last compaction. What was removed up to it is no longer offered, but stays
until it is forgotten.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import catalog_check
from .catalog_check import REMEDY
from .changes import now
from .errors import FormatTooNew, GalleryDamaged, GalleryError, GalleryNotFound, StorageError
from .settings import ExtractionSettings
from .shard import FORMAT, VERSION, make_durable

SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE shards (
    shard INTEGER PRIMARY KEY AUTOINCREMENT,
    file TEXT NOT NULL, rows INTEGER NOT NULL, bytes INTEGER NOT NULL, digest TEXT NOT NULL
);
CREATE TABLE images (
    key INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL,
    shard INTEGER NOT NULL REFERENCES shards, row INTEGER NOT NULL,
    digest BLOB NOT NULL, path TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL,
    added INTEGER NOT NULL, removed INTEGER
);
CREATE UNIQUE INDEX live_ids ON images (id) WHERE removed IS NULL;
CREATE INDEX digests ON images (digest);
CREATE INDEX additions ON images (added);
CREATE INDEX removals ON images (removed) WHERE removed IS NOT NULL;
CREATE TABLE snapshots (
    snapshot INTEGER PRIMARY KEY, created TEXT NOT NULL, action TEXT NOT NULL,
    images INTEGER NOT NULL, moments TEXT NOT NULL
);
CREATE TABLE indexes (
    snapshot INTEGER PRIMARY KEY, file TEXT NOT NULL, digest TEXT NOT NULL, description TEXT NOT NULL
);
CREATE TABLE calibrations (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
PLACES = "CREATE INDEX IF NOT EXISTS places ON images (shard, row);"  # galleries of before have no such index
BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL)
IMAGE = (int, str, int, int, bytes, str, int, int, int, int, int, int | None)  # kinds of an ImageRow's values
BUSY_SECONDS = 30  # a commit of another process takes milliseconds
# The plus signs keep SQLite from its index of `added`, by which it would read all images for a page of them.
LIVE_AT = "+added <= ? AND (removed IS NULL OR removed > ?)"
LIVE = LIVE_AT.replace("?", ":snapshot")
GONE = "removed > ? AND NOT EXISTS (SELECT 1 FROM images WHERE id = gone.id AND removed IS NULL)"


@dataclass(frozen=True)
class ImageRow:
    """One image of a gallery."""

    key: int  # never used again; what the index calls it
    id: str
    shard: int
    row: int
    digest: bytes
    path: str  # where it was when it was added
    size: int
    mtime_ns: int
    width: int
    height: int
    added: int
    removed: int | None


@dataclass(frozen=True)
class IndexRow:
    """One FAISS index."""

    snapshot: int
    file: str
    digest: str
    description: str  # JSON


class Catalog:
    """The gallery's SQLite file."""

    def __init__(self, path: Path) -> None:
        """Raises GalleryNotFound, FormatTooNew, GalleryDamaged."""
        self.path = path
        if not path.is_file():
            raise GalleryNotFound(f"{path.parent}: no gallery there; make one with `spade-index build IMAGES GALLERY`")
        self._db = self._connected()
        if self.meta("format") != FORMAT:
            raise GalleryDamaged(f"{path}: not the catalog of a gallery; {REMEDY}")
        if self._number("version") > VERSION:
            raise FormatTooNew(
                f"{path.parent}: format version {self.meta('version')} is newer than this spade_index reads "
                f"({VERSION}): pip install --upgrade spade_index"
            )
        try:
            self.settings = ExtractionSettings.from_json(self.meta("settings") or "")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise GalleryDamaged(f"{path}: its settings cannot be read ({error}); {REMEDY}") from error

    @classmethod
    def create(cls, path: Path, settings: ExtractionSettings, weights_file: str | None = None) -> "Catalog":
        """A new, empty catalog at snapshot 0; it appears whole or not at all."""
        temporary = path.with_suffix(".tmp")
        for leftover in leftovers(path):
            leftover.unlink(missing_ok=True)
        with closing(_connect(temporary)) as db:
            db.executescript(SCHEMA + PLACES)
            meta = {"format": FORMAT, "version": str(VERSION), "settings": settings.to_json(), "created": now()}
            if weights_file:
                meta["weights_file"] = os.path.abspath(weights_file)
            db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
            db.execute("INSERT INTO snapshots VALUES (0, ?, 'create', 0, ?)", (now(), "[]"))
        make_durable(temporary, path)
        return cls(path)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is executed inside happens, durably, or nothing does."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def add_places(self) -> None:
        """Add the index of images by shard to a gallery of before there was one."""
        self._db.execute(PLACES)

    def meta(self, name: str) -> str | None:
        """A fact about the gallery as a whole."""
        return self._value("SELECT value FROM meta WHERE name = ?", str, name)

    def generation(self) -> int:
        """How many times something has fallen out of use."""
        return self._number("generation")

    def data_version(self) -> int:
        """A number that another one's commit changes, of whatever kind; to ask for it costs nearly nothing."""
        return int(self._read("PRAGMA data_version")[0][0])

    def oldest_snapshot(self) -> int:
        """The earliest snapshot that can be opened: that of the last compaction."""
        return self._number("oldest")

    def latest_snapshot(self) -> int:
        """The snapshot of the last commit."""
        snapshot = self._value("SELECT max(snapshot) FROM snapshots", int)
        if snapshot is None:
            raise self._damaged("it has no snapshots")
        return snapshot

    def snapshot(self, snapshot: int) -> sqlite3.Row | None:
        """created, action, images and moments of a snapshot, or None if it is not there (any more)."""
        return next(iter(self._snapshots("WHERE snapshot = ?", snapshot)), None)

    def snapshots(self) -> list[sqlite3.Row]:
        """All snapshots that can be opened, the oldest first."""
        return self._snapshots("WHERE snapshot >= ? ORDER BY snapshot", self.oldest_snapshot())

    def _snapshots(self, which: str, value: int) -> list[sqlite3.Row]:
        return self._typed(
            (int, str, str, int, str),
            f"SELECT snapshot, created, action, images, moments FROM snapshots {which}",
            (value,),
        )

    def images(self, snapshot: int, after: int = -1) -> Iterator[ImageRow]:
        """The images of a snapshot that were added after snapshot `after`, in the order of their keys.

        Read page by page, so that no lock is held while the caller works.
        """
        # Keys ascend with `added`.
        key = (self._value("SELECT min(key) FROM images WHERE added > ?", int, after) or 0) - 1
        while page := self.page(snapshot, key, 1000, after):
            yield from page
            key = page[-1].key

    def page(self, snapshot: int, key: int, limit: int, after: int = -1) -> list[ImageRow]:
        """So many of a snapshot's images that were added after snapshot `after`, by their keys, after a key."""
        query = f"SELECT * FROM images WHERE {LIVE} AND +added > :after AND key > :key ORDER BY key LIMIT :limit"
        rows = self._typed(IMAGE, query, {"snapshot": snapshot, "after": after, "key": key, "limit": limit})
        return [ImageRow(*row) for row in rows]

    def images_by_key(self, keys: Iterable[int]) -> dict[int, ImageRow]:
        """Rows of these keys, removed or not."""
        return {row[0]: ImageRow(*row) for row in self._by_key(IMAGE, "*", keys)}

    def ids(self, keys: Iterable[int]) -> dict[int, str]:
        """Ids of these keys, removed or not."""
        return {row[0]: row[1] for row in self._by_key((int, str), "key, id", keys)}

    def image_by_id(self, id: str, snapshot: int) -> ImageRow | None:
        """The image with this id at a snapshot."""
        return self._one(f"SELECT * FROM images WHERE id = :id AND {LIVE}", id=id, snapshot=snapshot)

    def images_by_id(self, ids: Sequence[str], snapshot: int) -> dict[str, ImageRow]:
        """Those of these ids that are there at a snapshot."""
        return {row["id"]: ImageRow(*row) for row in self._live("id", ids, snapshot)}

    def ids_by_digest(self, digests: Sequence[bytes], snapshot: int) -> dict[bytes, str]:
        """The ids of images with these file contents at a snapshot."""
        return {row["digest"]: row["id"] for row in self._live("digest", digests, snapshot)}

    def added_count(self, snapshot: int, since: int) -> int:
        """How many of a snapshot's images were added after an earlier one."""
        query = "SELECT count(*) FROM images WHERE added > ? AND added <= ? AND (removed IS NULL OR removed > ?)"
        return self._value(query, int, since, snapshot, snapshot) or 0

    def removed_keys(self, snapshot: int, since: int) -> list[int]:
        """Keys of images that snapshot `since` held and `snapshot` does not."""
        query = "SELECT key FROM images WHERE removed > ? AND removed <= ? AND added <= ? ORDER BY key"
        return [row[0] for row in self._read(query, (since, snapshot, since))]

    def removed_image(self, id: str) -> ImageRow | None:
        """The image that had this id last, of those that were removed since the last compaction."""
        query = "SELECT * FROM images WHERE id = :id AND removed > :oldest ORDER BY removed DESC"
        return self._one(query, id=id, oldest=self.oldest_snapshot())

    def removed_images(self) -> list[ImageRow]:
        """Those that can be restored, in the order of their keys: the last with its id, and none has it now."""
        query = f"SELECT * FROM images AS gone WHERE {GONE} ORDER BY removed"
        rows = self._typed(IMAGE, query, (self.oldest_snapshot(),))
        latest = {image.id: image for image in (ImageRow(*row) for row in rows)}
        return sorted(latest.values(), key=lambda row: row.key)

    def removed_count(self) -> int:
        """Images that are removed and still take room, until `compact`; not those that were restored."""
        lives = "SELECT 1 FROM images WHERE id = gone.id AND removed IS NULL AND shard = gone.shard AND row = gone.row"
        places = f"SELECT DISTINCT shard, row FROM images AS gone WHERE removed > ? AND NOT EXISTS ({lives})"
        return self._value(f"SELECT count(*) FROM ({places})", int, self.oldest_snapshot()) or 0

    def live_counts(self) -> dict[int, int]:
        """How many images each shard holds that are not removed; shards that wait to be forgotten are left out."""
        query = "SELECT shard, sum(removed IS NULL) FROM images WHERE removed IS NULL OR removed > ? GROUP BY shard"
        return {row[0]: row[1] for row in self._read(query, (self.oldest_snapshot(),))}

    def shards(self) -> dict[int, sqlite3.Row]:
        """file, rows, bytes and digest of every shard."""
        rows = self._typed(
            (int, str, int, int, str), "SELECT shard, file, rows, bytes, digest FROM shards ORDER BY shard"
        )
        return {row["shard"]: row for row in rows}

    def images_in(self, shard: int) -> list[ImageRow]:
        """The images in a shard, removed or not, in the order of their rows."""
        rows = self._typed(IMAGE, "SELECT * FROM images WHERE shard = ? ORDER BY row, key", (shard,))
        return [ImageRow(*row) for row in rows]

    def next_shard(self) -> int:
        """A number that no shard has ever had."""
        return (self._value("SELECT seq FROM sqlite_sequence WHERE name = 'shards'", int) or 0) + 1

    def shard_file(self, shard: int) -> str | None:
        """The file name of a shard, or None if it is not there (any more)."""
        return self._value("SELECT file FROM shards WHERE shard = ?", str, shard)

    def index(self, snapshot: int) -> IndexRow | None:
        """The newest index that is not newer than a snapshot, and of after `compact`: else it proposes what is gone."""
        query = "SELECT * FROM indexes WHERE snapshot BETWEEN ? AND ? ORDER BY snapshot DESC LIMIT 1"
        return self._index(query, self.oldest_snapshot(), snapshot)

    def latest_index(self) -> IndexRow | None:
        """The index that was built last."""
        return self._index("SELECT * FROM indexes")

    def _index(self, query: str, *values: int) -> IndexRow | None:
        return next((IndexRow(*row) for row in self._typed((int, str, str, str), query, values)), None)

    def index_files(self) -> set[str]:
        """The files of all indexes."""
        return {row[0] for row in self._read("SELECT file FROM indexes")}

    def calibration(self, key: str) -> str | None:
        """The thresholds stored for search settings, as JSON."""
        return self._value("SELECT value FROM calibrations WHERE key = ?", str, key)

    def calibrations(self) -> list[dict[str, object]]:
        """All stored thresholds."""
        try:
            return [json.loads(row[0]) for row in self._read("SELECT value FROM calibrations")]
        except (TypeError, ValueError) as error:
            raise self._damaged(f"a threshold cannot be read ({error})") from error

    def require_unchanged(self) -> bool:
        """See `catalog_check.require_unchanged`."""
        with closing(self._connected()) as db:
            try:
                db.execute("BEGIN")
                db.execute("SELECT count(*) FROM meta").fetchone()  # from now on nobody commits, until it is closed
            except (sqlite3.Error, UnicodeError) as error:
                raise self._unreadable(error) from error
            return catalog_check.require_unchanged(self.path)

    def problems(self) -> Iterator[str]:
        """What is wrong with the catalog itself, one line each."""
        try:
            self.require_unchanged()
        except GalleryDamaged as error:
            yield str(error)
        yield from self.own_problems()

    def own_problems(self) -> Iterator[str]:
        """What is wrong with the catalog that can be found without a note of its bytes."""
        for (line,) in self._read("PRAGMA integrity_check"):
            if line != "ok":
                yield f"{self.path}: {' '.join(line.split())}"
        query = "SELECT count(*) FROM images LEFT JOIN shards USING (shard) WHERE row >= rows OR rows IS NULL"
        if missing := self._value(query, int):
            yield f"{self.path}: {missing} images are in no shard"

    def _connected(self) -> sqlite3.Connection:
        try:
            return _connect(self.path)
        except (sqlite3.Error, UnicodeError) as error:  # also of a message of SQLite's
            raise self._unreadable(error) from error

    def _live(self, column: str, values: Sequence[object], snapshot: int) -> Iterator[sqlite3.Row]:
        """Rows at a snapshot whose column has one of these values."""
        for part in _parts(values):
            query = f"SELECT * FROM images WHERE {column} IN ({','.join('?' * len(part))}) AND {LIVE_AT}"
            yield from self._typed(IMAGE, query, [*part, snapshot, snapshot])

    def _by_key(self, kinds: tuple[Any, ...], columns: str, keys: Iterable[int]) -> Iterator[sqlite3.Row]:
        for part in _parts(list(dict.fromkeys(int(key) for key in keys))):
            query = f"SELECT {columns} FROM images WHERE key IN ({','.join('?' * len(part))})"
            yield from self._typed(kinds, query, part)

    def _number(self, name: str) -> int:
        try:
            return int(self.meta(name) or 0)
        except ValueError as error:
            raise self._damaged(str(error)) from error

    def _one(self, query: str, **values: object) -> ImageRow | None:
        return next((ImageRow(*row) for row in self._typed(IMAGE, query, values)), None)

    def _value(self, query: str, kind: type, *values: object) -> Any:
        return next((row[0] for row in self._typed((kind | None,), query, values)), None)

    def _typed(
        self, kinds: tuple[Any, ...], query: str, values: Sequence[object] | dict[str, object] = ()
    ) -> list[sqlite3.Row]:
        """Rows of values of these kinds: SQLite gives whatever it finds in a damaged file."""
        rows = self._read(query, values)
        for row in rows:
            if not all(map(isinstance, row, kinds)):
                raise self._damaged("unexpected values")
        return rows

    def _read(self, query: str, values: Sequence[object] | dict[str, object] = ()) -> list[sqlite3.Row]:
        """All rows at once: no lock is held while the caller works. Raises GalleryDamaged, StorageError (busy)."""
        try:
            return self._db.execute(query, values).fetchall()
        except (sqlite3.Error, UnicodeError) as error:  # also of a message of SQLite's
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> GalleryError:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in BUSY:
            return StorageError(f"{self.path}: the catalog cannot be read ({error})")
        return self._damaged(str(error))

    def _damaged(self, reason: str) -> GalleryDamaged:
        return GalleryDamaged(f"{self.path}: not a readable catalog ({' '.join(reason.split())}); {REMEDY}")


def _parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """SQLite's limit of variables was once 999."""
    return (values[start : start + 500] for start in range(0, len(values), 500))


def leftovers(path: Path) -> list[Path]:
    """What a crash while a catalog was created may have left beside it."""
    return [path.with_suffix(".tmp"), path.with_suffix(".tmp-journal")]


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    db.row_factory = sqlite3.Row
    # A rollback journal keeps the catalog one file; EXTRA also makes the journal's removal, the commit, durable.
    db.execute("PRAGMA synchronous = EXTRA")
    db.execute("PRAGMA foreign_keys = ON")
    return db
