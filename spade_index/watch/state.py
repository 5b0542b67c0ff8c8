"""What a watch remembers: images that were judged, and verdicts that are not delivered everywhere.

    STATE/watch.sqlite    in WAL mode, and the two files that SQLite keeps beside it
    STATE/watch.lock      held by the one process that uses it
    STATE/refused.jsonl   verdicts that a webhook's receiver refused for good

A judgement and its verdict are one commit, and a delivery is noted after it: a kill at any moment loses no verdict, and
at most the last ones are delivered again, under the same id.
"""

import fcntl
import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from spade_index.errors import InputError, StorageError
from spade_index.gallery.catalog.beside import JOURNAL, require_own_journal

NAME, LOCK, REFUSED = "watch.sqlite", "watch.lock", "refused.jsonl"
KIND = 0x73706164  # application_id: "spad"
SCHEMA = (
    "CREATE TABLE judged (id TEXT PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE verdicts (number INTEGER PRIMARY KEY AUTOINCREMENT, record TEXT NOT NULL)",
    "CREATE TABLE sinks (name TEXT PRIMARY KEY, delivered INTEGER NOT NULL)",
)


class StateError(StorageError):
    """The state cannot be read or written: the disk is full, or it is gone."""


class State:
    """The state of one watch, open. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        """Open or make it. Raises InputError if another watch uses it, or it is none; StateError."""
        self.path = folder / NAME
        with self._errors():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(f"{folder}: another watch uses this state: name another with --state") from error
            with self._errors():
                self._open()
        except BaseException:
            os.close(self._lock)
            raise

    def _open(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                status = self.path.with_name(NAME + suffix).lstat()
                if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                    raise self._foreign(f"{NAME}{suffix} is a link, or no file")
        try:  # of the first moments, before the file is in WAL mode
            require_own_journal(self.path.with_name(NAME + JOURNAL))
        except FileNotFoundError:
            pass
        except ValueError as error:
            raise self._foreign(str(error)) from error
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        self._db = sqlite3.connect(self.path, isolation_level=None, timeout=30)
        try:
            self._db.execute("PRAGMA trusted_schema = OFF")
            self._db.execute("PRAGMA mmap_size = 0")
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        """Make the tables of a new file, or check those of an old one."""
        if not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            with self._transaction():
                for statement in SCHEMA:
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA application_id = {KIND}")
        found = self._db.execute("SELECT sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'").fetchall()
        kind = self._db.execute("PRAGMA application_id").fetchone()[0]
        if kind != KIND or sorted(found, key=str) != sorted(((sql,) for sql in SCHEMA), key=str):
            raise self._foreign("it has other tables")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")  # each commit is durable
        if (problem := self._db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise self._foreign(str(problem))

    def __enter__(self) -> "State":
        return self

    def __exit__(self, *exception: object) -> None:
        self._db.close()
        os.close(self._lock)

    def is_judged(self, id: str) -> bool:
        """Return whether the verdict of this id was given."""
        with self._errors():
            return self._db.execute("SELECT 1 FROM judged WHERE id = ?", (id,)).fetchone() is not None

    def judged(self, records: Sequence[tuple[str, str]]) -> None:
        """Note verdicts, (id, record in JSON), in their order, to be delivered: all of them or none."""
        with self._errors(), self._transaction():
            self._db.executemany("INSERT INTO judged VALUES (?)", [(id,) for id, _ in records])
            self._db.executemany("INSERT INTO verdicts (record) VALUES (?)", [(record,) for _, record in records])

    def deliver_to(self, names: Sequence[str]) -> None:
        """Set the sinks. One that is new gets the verdicts from now on; one that is gone holds none back."""
        with self._errors(), self._transaction():
            known = {name for (name,) in self._db.execute("SELECT name FROM sinks")}
            row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'verdicts'").fetchone()
            last = row[0] if known and row else 0
            for name in known - set(names):
                self._db.execute("DELETE FROM sinks WHERE name = ?", (name,))
            for name in set(names) - known:
                self._db.execute("INSERT INTO sinks VALUES (?, ?)", (name, last))
            self._forget()

    def undelivered(self, name: str, most: int) -> list[tuple[int, str]]:
        """Return the earliest verdicts that a sink has not got: number and record."""
        query = (
            "SELECT number, record FROM verdicts WHERE number > (SELECT delivered FROM sinks WHERE name = ?) "
            "ORDER BY number LIMIT ?"
        )
        with self._errors():
            return self._db.execute(query, (name, most)).fetchall()

    def delivered(self, name: str, number: int) -> None:
        """Note that a sink has got the verdicts up to this number."""
        with self._errors(), self._transaction():
            self._db.execute("UPDATE sinks SET delivered = ? WHERE name = ?", (number, name))
            self._forget()

    def waiting(self) -> int:
        """Return the number of verdicts that some sink has not got."""
        with self._errors():
            return int(self._db.execute("SELECT count(*) FROM verdicts").fetchone()[0])

    def _forget(self) -> None:
        self._db.execute("DELETE FROM verdicts WHERE number <= (SELECT min(delivered) FROM sinks)")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise self._foreign(str(error)) from error
            raise StateError(f"{self.path}: cannot be read or written ({error})") from error
        except OSError as error:
            raise StateError(f"{self.path}: cannot be read or written ({error.strerror})") from error

    def _foreign(self, reason: str) -> InputError:
        return InputError(f"{self.path}: not the state of a watch ({reason}): delete it, or name another with --state")
