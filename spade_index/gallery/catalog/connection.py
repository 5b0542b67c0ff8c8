"""The catalog as one SQLite file: its connection, transactions, typed rows, and the meaning of its errors."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from spade_index.errors import GalleryDamaged, GalleryError, GalleryNotFound, InputError, StorageError

from .beside import require_own_files
from .meanings import damaged, unreadable
from .tables import Row, column_types, select
from .transaction import Transaction

BUSY_SECONDS = 30  # a commit of another process takes milliseconds

Values = Sequence[object] | dict[str, object]
R = TypeVar("R", bound=Row)


class CatalogFile:
    """An open catalog. Errors in reading it are raised as GalleryErrors: see `meanings`."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises GalleryNotFound, GalleryDamaged, StorageError."""
        self.path = path
        self.guard: Callable[[sqlite3.Connection], None] = lambda db: None
        """Called at the beginning of each transaction; what it raises ends that: see `lease`."""
        if not self._is_there():
            raise GalleryNotFound(f"{path.parent}: no gallery there; make one with `spade-index build IMAGES GALLERY`")
        self._db = self._connected()
        try:
            self._require_own_kind()
            self._identity = self._found()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Commit all changes that are made inside, durably, or none of them if anything is raised.

        Raises GalleryDamaged for numbers that go on from one that SQLite cannot count up.
        """
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self.guard(self._db)
            yield Transaction(self._db)
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if isinstance(error, OverflowError):
                raise self._damaged("a number that it has issued is too large to go on from") from error
            raise

    def meta(self, name: str) -> str | None:
        """Return a fact about the gallery as a whole."""
        return self._value("SELECT value FROM meta WHERE name = ?", str, name)

    def generation(self) -> int:
        """Return the number of the current generation: see `generations`."""
        return self._number("generation")

    def data_version(self) -> int:
        """Return a number that changes with every commit of another connection; cheap to ask for."""
        return int(self._read("PRAGMA data_version")[0][0])

    def oldest_snapshot(self) -> int:
        """Return the earliest snapshot that can be opened: that of the last compaction."""
        return self._number("oldest")

    def _require_own_kind(self) -> None:
        """Raise GalleryDamaged for a catalog with other things in it than tables of values."""
        if self._read("PRAGMA journal_mode") != [("delete",)]:
            raise self._damaged("another program has changed how it is written")
        # Such a catalog runs statements of its own at every read or commit, or reads other files.
        if self._read("SELECT 1 FROM sqlite_master WHERE type NOT IN ('table', 'index') OR rootpage = 0 LIMIT 1"):
            raise self._damaged("it has views, triggers or virtual tables")

    def _has_table(self, name: str) -> bool:
        """Return whether there is a table, which catalogs of earlier versions may lack."""
        return self._value("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", int, name) is not None

    def require_in_place(self) -> None:
        """Raise StorageError unless this file is still at its path: else other files there are of another gallery."""
        try:
            own = self._found() == self._identity
        except OSError:  # it is gone
            own = False
        if not own:
            raise StorageError(
                f"{self.path.parent}: another folder has its name, or it is gone, since it was opened: open it again"
            )

    def _found(self) -> tuple[int, int]:
        """Return what tells the file at the path from others. Raises OSError."""
        status = self.path.lstat()
        return status.st_dev, status.st_ino

    def _is_there(self) -> bool:
        try:
            return self.path.is_file()
        except OSError as error:  # its folder is closed to this user, or its name is too long
            raise StorageError(f"{self.path}: the catalog cannot be looked for ({error.strerror})") from error

    def _connected(self) -> sqlite3.Connection:
        try:
            require_own_files(self.path)
            return connect(self.path)
        except OSError as error:
            raise StorageError(f"{self.path}: the catalog cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise self._damaged(str(error)) from error
        except (sqlite3.Error, UnicodeError) as error:  # UnicodeError: of SQLite's own message
            raise self._unreadable(error) from error

    def _number(self, name: str) -> int:
        try:
            return int(self.meta(name) or 0)
        except ValueError as error:
            raise self._damaged(str(error)) from error

    def _value(self, query: str, kind: type, *values: object) -> Any:
        """Return the first value of the first row, or None."""
        return next((row[0] for row in self._typed((kind | None,), query, values)), None)

    def _rows(self, row: type[R], condition: str = "", values: Values = ()) -> list[R]:
        """Return rows of a table; `condition` is what follows the table's name in the query."""
        found = self._typed(column_types(row), select(row, condition), values)
        try:
            return [row(*of) for of in found]
        except ValueError as error:
            raise self._damaged(str(error)) from error

    def _row(self, row: type[R], condition: str, values: Values) -> R | None:
        """Return the first of such rows, or None."""
        return next(iter(self._rows(row, condition, values)), None)

    def _typed(self, kinds: tuple[Any, ...], query: str, values: Values = ()) -> list[tuple[Any, ...]]:
        """Return rows of values of these kinds. Raises GalleryDamaged: a damaged file may hold any other."""
        rows = self._read(query, values)
        for row in rows:
            if not all(map(isinstance, row, kinds)):
                raise self._damaged("unexpected values")
        return rows

    def _read(self, query: str, values: Values = ()) -> list[tuple[Any, ...]]:
        """Return all rows at once, so that no lock is held while the caller works.

        Raises GalleryDamaged, StorageError if the catalog cannot be read now, GalleryError if it is closed, or
        InputError for values that no catalog can hold.
        """
        try:
            return self._db.execute(query, values).fetchall()
        except UnicodeEncodeError as error:
            raise InputError(f"{error.object!a} is not valid text, so there is nothing of this name") from error
        except OverflowError as error:
            raise InputError(f"{self.path.parent}: a number that was given is too large") from error
        except (sqlite3.Error, UnicodeError) as error:  # UnicodeError: of SQLite's own message
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> GalleryError:
        return unreadable(self.path, error)

    def _damaged(self, reason: str) -> GalleryDamaged:
        return damaged(self.path, reason)


def connect(path: Path) -> sqlite3.Connection:
    """Open a catalog's file. Raises sqlite3.Error."""
    db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    # A rollback journal keeps the catalog one file; EXTRA also makes the journal's removal, the commit, durable.
    db.execute("PRAGMA synchronous = EXTRA")
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("PRAGMA mmap_size = 0")  # a mapped file that another program truncates ends the process
    db.execute("PRAGMA trusted_schema = OFF")  # expressions of the schema call harmless functions only
    return db
