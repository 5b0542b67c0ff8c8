"""The catalog as one SQLite file: its connection, transactions, typed rows, and what its errors mean."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spade_index.errors import GalleryDamaged, GalleryError, GalleryNotFound, StorageError

from .check import REMEDY

BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL)
BUSY_SECONDS = 30  # a commit of another process takes milliseconds


class CatalogFile:
    """An open catalog. Whatever reading it comes to is a GalleryDamaged, or a StorageError if it is busy."""

    def __init__(self, path: Path) -> None:
        """Raises GalleryNotFound, GalleryDamaged."""
        self.path = path
        if not path.is_file():
            raise GalleryNotFound(f"{path.parent}: no gallery there; make one with `spade-index build IMAGES GALLERY`")
        self._db = self._connected()

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

    def _connected(self) -> sqlite3.Connection:
        try:
            return connect(self.path)
        except (sqlite3.Error, UnicodeError) as error:  # also of a message of SQLite's
            raise self._unreadable(error) from error

    def _number(self, name: str) -> int:
        try:
            return int(self.meta(name) or 0)
        except ValueError as error:
            raise self._damaged(str(error)) from error

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


def connect(path: Path) -> sqlite3.Connection:
    """A connection to a catalog's file. Raises sqlite3.Error."""
    db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    db.row_factory = sqlite3.Row
    # A rollback journal keeps the catalog one file; EXTRA also makes the journal's removal, the commit, durable.
    db.execute("PRAGMA synchronous = EXTRA")
    db.execute("PRAGMA foreign_keys = ON")
    return db
