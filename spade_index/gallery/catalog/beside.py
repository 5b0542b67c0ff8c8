"""The files that SQLite opens by their names beside a catalog: checked before it does, since they may come from anyone.

SQLite writes through links, and a journal can name another file, which SQLite deletes when it rolls the journal back.
"""

import stat
from contextlib import suppress
from pathlib import Path

from spade_index.gallery.store.files import is_hole, open_regular

JOURNAL = "-journal"  # what a writer that was interrupted leaves: its change is undone at the next access
FOREIGN = ("-wal", "-shm")  # of another mode, which no writer of a gallery uses
NAMES_ANOTHER = bytes.fromhex("d9d505f920a163d7")  # the end of a journal that names another file
# See https://www.sqlite.org/fileformat.html#the_rollback_journal


def require_own_files(catalog: Path) -> None:
    """Raise ValueError unless a catalog, and what lies beside it, are files that a writer of a gallery leaves.

    Raises OSError.
    """
    if not stat.S_ISREG(catalog.lstat().st_mode):
        raise ValueError("a link, or another thing that is not a file")
    if is_hole(catalog):
        raise ValueError("nearly nothing of it is stored")
    for suffix in FOREIGN:
        with suppress(FileNotFoundError):
            catalog.with_name(catalog.name + suffix).lstat()
            raise ValueError(f"{catalog.name}{suffix} is of another program")
    with suppress(FileNotFoundError):
        require_own_journal(catalog.with_name(catalog.name + JOURNAL))


def require_own_journal(journal: Path) -> None:
    """Raise ValueError for a journal that is no file, or that names another one."""
    if not stat.S_ISREG(journal.lstat().st_mode):
        raise ValueError(f"{journal.name} is not a file")
    with open(open_regular(journal), "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - len(NAMES_ANOTHER)))
        if file.read() == NAMES_ANOTHER:
            raise ValueError(f"{journal.name} names another file")
