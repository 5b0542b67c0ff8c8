"""What an error of SQLite means: damage, a gallery that is closed, or a machine that cannot do it now."""

import sqlite3
from pathlib import Path

from spade_index.errors import GalleryDamaged, GalleryError, StorageError

from .check import REMEDY

# Any other is not the file's fault: https://www.sqlite.org/rescode.html
DAMAGE = (
    sqlite3.SQLITE_ERROR,  # a table or column is missing
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_EMPTY,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_TOOBIG,
)
NO_LOCKS = (
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_IOERR_LOCK,
    sqlite3.SQLITE_IOERR_UNLOCK,
    sqlite3.SQLITE_IOERR_RDLOCK,
    sqlite3.SQLITE_IOERR_CHECKRESERVEDLOCK,
)
WHY = {
    sqlite3.SQLITE_READONLY: "a writer was interrupted, and its change cannot be undone in a folder that is read-only: "
    "open the gallery once where it can be written",
    sqlite3.SQLITE_CANTOPEN: "see that its folder and files can be read and that few files are open, then try again",
    sqlite3.SQLITE_PERM: "see that its folder and its files can be read",
    sqlite3.SQLITE_AUTH: "see that its folder and its files can be read",
}


def unreadable(path: Path, error: Exception) -> GalleryError:
    """Return what to raise for an error in reading the catalog at `path`."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None and isinstance(error, sqlite3.ProgrammingError | sqlite3.InterfaceError):
        return GalleryError(f"{path.parent}: the gallery is closed, or used in a way that it cannot be ({error})")
    if code is None or code & 0xFF in DAMAGE:
        return damaged(path, str(error))
    remedy = WHY.get(code & 0xFF, "try again")
    if code in NO_LOCKS:
        remedy = "its file system has no locks: mount it with locks, or copy the gallery to a disk of this machine"
    return StorageError(f"{path}: the catalog cannot be read ({' '.join(str(error).split())}): {remedy}")


def damaged(path: Path, reason: str) -> GalleryDamaged:
    """Return what to raise for a catalog that is not as it was written."""
    return GalleryDamaged(f"{path}: not a readable catalog ({' '.join(reason.split())}); {REMEDY}")
