"""The lease of a gallery's one writer: a row of `meta` that it renews while it lives.

The lock of a file may hold on one machine only, where several use a folder over a network. There, a writer takes a
lease, too: no other machine writes until it is given back, or has not been renewed for SECONDS. Every transaction looks
whether the lease is still its writer's, so one whose lease was taken over commits nothing more, whatever its clock is.

    lease    MACHINE/PID/RANDOM NAME UNTIL    the writer, its machine's name, and the end: seconds since 1970
"""

import logging
import os
import re
import secrets
import socket
import sqlite3
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

from spade_index.errors import GalleryLocked

from .connection import connect

NAME = "lease"  # in `meta`
SECONDS = 90
RENEWED = 20  # seconds between renewals
BOOT = Path("/proc/sys/kernel/random/boot_id")
HELD = re.compile(r"([\w.:-]{1,80})/([0-9]{1,10})/([0-9a-f]{16}) ([\w.:-]{1,80}) ([0-9]{1,11})", re.ASCII)

log = logging.getLogger("spade_index.gallery")


@dataclass(frozen=True)
class Held:
    """A lease as the catalog has it."""

    machine: str
    pid: str
    random: str
    name: str  # of the machine, as people call it
    until: int  # seconds since 1970

    @classmethod
    def read(cls, db: sqlite3.Connection) -> "Held | None":
        """Return the lease; None where there is none, or what is there is no lease. Raises sqlite3.Error."""
        found = db.execute("SELECT value FROM meta WHERE name = ?", (NAME,)).fetchone()
        held = HELD.fullmatch(found[0]) if found and isinstance(found[0], str) else None
        return held and cls(held[1], held[2], held[3], held[4], int(held[5]))

    @property
    def writer(self) -> tuple[str, str, str]:
        """Who holds it."""
        return self.machine, self.pid, self.random

    def __str__(self) -> str:
        return f"{self.machine}/{self.pid}/{self.random} {self.name} {self.until}"


class Lease:
    """The lease of this process on one gallery."""

    def __init__(self, catalog: Path) -> None:
        self._catalog = catalog
        self._writer = machine(), str(os.getpid()), secrets.token_hex(8)
        self._db: sqlite3.Connection | None = None
        self._ended = Event()
        self._renewing = Thread(target=self._renew_always, name="lease", daemon=True)

    def take(self) -> None:
        """Take the lease, and renew it from now on. Raises GalleryLocked, sqlite3.Error.

        Of the same machine, an earlier one is taken over: its writer is gone, since this one has the lock of the file.
        """
        self._db = connect(self._catalog)
        self._db.execute("BEGIN IMMEDIATE")
        _require_free(self._catalog, Held.read(self._db))
        self._db.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (NAME, str(self._next())))
        self._db.execute("COMMIT")
        self._renewing.start()

    def require(self, db: sqlite3.Connection) -> None:
        """Raise GalleryLocked, in a transaction of `db`, if another writer has taken the lease over."""
        held = Held.read(db)
        if held is None or held.writer != self._writer:
            by = f"machine {held.name} (pid {held.pid})" if held else "another writer"
            raise GalleryLocked(
                f"{self._catalog.parent}: {by} has taken over, since this one did not renew its lease for {SECONDS} "
                "seconds; what was committed is safe: run the same command again"
            )

    def check(self) -> None:
        """Raise GalleryLocked if it was taken, and another writer has taken it over. Raises sqlite3.Error."""
        if self._db is not None:
            self.require(self._db)

    def renew(self) -> bool:
        """Move the end of the lease; return False if it is another's by now. Raises sqlite3.Error."""
        assert self._db is not None
        return self._changed("UPDATE meta SET value = ? WHERE name = ? AND value LIKE ?", str(self._next()))

    def release(self) -> None:
        """Give the lease back, if it is held."""
        self._ended.set()
        if self._renewing.is_alive():
            self._renewing.join()
        if self._db is not None:
            with closing(self._db), suppress(sqlite3.Error):  # then it ends by itself
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self._changed("DELETE FROM meta WHERE name = ? AND value LIKE ?")
            self._db = None

    def _changed(self, statement: str, *values: str) -> bool:
        assert self._db is not None
        mine = f"{'/'.join(self._writer)} %"
        return self._db.execute(statement, (*values, NAME, mine)).rowcount > 0

    def _renew_always(self) -> None:
        while not self._ended.wait(RENEWED):
            try:
                if not self.renew():
                    return
            except sqlite3.Error as error:  # tried again; a transaction finds out if it was too late
                log.warning("%s: the lease could not be renewed (%s)", self._catalog, error)

    def _next(self) -> Held:
        return Held(*self._writer, _name(), int(time.time()) + SECONDS)


def require_free(catalog: Path) -> None:
    """Raise GalleryLocked while another machine has a lease. Raises sqlite3.Error."""
    with closing(connect(catalog)) as db:
        _require_free(catalog, Held.read(db))


def machine() -> str:
    """Return what names this machine since it was started. Its containers share it, as they share locks of files."""
    try:
        return BOOT.read_text().strip()
    except OSError:
        return _name()


def _name() -> str:
    return re.sub(r"[^\w.:-]", "-", socket.gethostname(), flags=re.ASCII)[:80]


def _require_free(catalog: Path, held: Held | None) -> None:
    if held is None or held.machine == machine():
        return
    left = held.until - time.time()
    if left > SECONDS:
        raise GalleryLocked(
            f"{catalog.parent}: machine {held.name} (pid {held.pid}) is writing to it, with a clock that is "
            f"{left - SECONDS:.0f} seconds or more ahead of this machine's: wait until it is done, and set the clocks"
        )
    if left > 0:
        raise GalleryLocked(
            f"{catalog.parent}: machine {held.name} (pid {held.pid}) is writing to it: wait until it is done; "
            f"if it has stopped, its lease ends in {left:.0f} seconds"
        )
