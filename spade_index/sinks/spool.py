"""Verdicts on disk until every sink has got them, in SQLite.

    FOLDER/NAME.sqlite    in WAL mode, and the two files that SQLite keeps beside it
    FOLDER/NAME.lock      held by the one process that uses it

A verdict is kept before it is delivered, and a delivery is noted after it: a kill at any moment loses no verdict, and
at most the last ones are delivered again, under the same id.
"""

import fcntl
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from spade_index.errors import InputError, StorageError
from spade_index.gallery.catalog.beside import JOURNAL, require_own_journal

KIND = 0x73706164  # application_id: "spad"


class SpoolError(StorageError):
    """The spool cannot be read or written: the disk is full, or it is gone."""


class Spool:
    """The spool of one process, open; its threads may share it. Use as a context manager."""

    name = "verdicts"
    owner = "service"  # for messages
    tables: tuple[str, ...] = (
        "CREATE TABLE verdicts (number INTEGER PRIMARY KEY AUTOINCREMENT, record TEXT NOT NULL)",
        "CREATE TABLE sinks (name TEXT PRIMARY KEY, delivered INTEGER NOT NULL)",
    )

    def __init__(self, folder: Path, most_bytes: int | None = None) -> None:
        """Open or make it. Raises InputError if another process uses it, or it is none; SpoolError.

        Args:
            most_bytes: of the records that wait, beyond which the oldest are dropped; None: there is no limit.
        """
        self.path = folder / f"{self.name}.sqlite"
        self._most_bytes = most_bytes
        self._held = (0, 0)  # verdicts, and their bytes
        self._using = threading.RLock()
        with self._errors():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._lock = os.open(folder / f"{self.name}.lock", flags, 0o600)
        try:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"{folder}: another {self.owner} uses this state: name another with --state"
                ) from error
            with self._errors():
                self._open()
        except BaseException:
            os.close(self._lock)
            raise

    def _open(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                beside = self.path.with_name(self.path.name + suffix)
                status = beside.lstat()
                if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                    raise self._foreign(f"{beside.name} is a link, or no file")
        try:  # of the first moments, before the file is in WAL mode
            require_own_journal(self.path.with_name(self.path.name + JOURNAL))
        except FileNotFoundError:
            pass
        except ValueError as error:
            raise self._foreign(str(error)) from error
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        self._db = sqlite3.connect(self.path, isolation_level=None, timeout=30, check_same_thread=False)
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
                for statement in self.tables:
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA application_id = {KIND}")
        found = self._db.execute("SELECT sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'").fetchall()
        kind = self._db.execute("PRAGMA application_id").fetchone()[0]
        if kind != KIND or sorted(found, key=str) != sorted(((sql,) for sql in self.tables), key=str):
            raise self._foreign("it has other tables")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")  # each commit is durable
        if (problem := self._db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise self._foreign(str(problem))
        self._held = self._db.execute("SELECT count(*), coalesce(sum(length(record)), 0) FROM verdicts").fetchone()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._db.close()
        os.close(self._lock)

    def add(self, records: Sequence[str]) -> int:
        """Keep records in JSON, which is ASCII, in their order; return the number of verdicts dropped to make room."""
        with self._errors(), self._transaction():
            before = self._held[0] + len(records)
            self._insert(records)
            if self._most_bytes is not None and self._held[1] > self._most_bytes:
                self._drop(self._held[1] - self._most_bytes)
            return before - self._held[0]

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
        return self._held[0]

    @property
    def bytes(self) -> int:
        """Return the bytes of their records."""
        return self._held[1]

    def _insert(self, records: Sequence[str]) -> None:
        self._db.executemany("INSERT INTO verdicts (record) VALUES (?)", [(record,) for record in records])
        self._held = self._held[0] + len(records), self._held[1] + sum(map(len, records))

    def _forget(self) -> None:
        """Delete what every sink has got."""
        self._delete(self._db.execute("SELECT min(delivered) FROM sinks").fetchone()[0] or 0)

    def _drop(self, bytes: int) -> None:
        """Delete the oldest verdicts, of this size or more."""
        number, rows = 0, self._db.execute("SELECT number, length(record) FROM verdicts ORDER BY number")
        while bytes > 0:
            number, size = rows.fetchone()
            bytes -= size
        rows.close()
        self._delete(number)

    def _delete(self, number: int) -> None:
        """Delete the verdicts up to this number."""
        sizes = self._db.execute(
            "DELETE FROM verdicts WHERE number <= ? RETURNING length(record)", (number,)
        ).fetchall()
        self._held = self._held[0] - len(sizes), self._held[1] - sum(size for (size,) in sizes)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        before = self._held
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self._held = before
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with self._using:
                yield
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise self._foreign(str(error)) from error
            raise SpoolError(f"{self.path}: cannot be read or written ({error})") from error
        except OSError as error:
            raise SpoolError(f"{self.path}: cannot be read or written ({error.strerror})") from error

    def _foreign(self, reason: str) -> InputError:
        return InputError(
            f"{self.path}: not the state of a {self.owner} ({reason}): delete it, or name another with --state"
        )
