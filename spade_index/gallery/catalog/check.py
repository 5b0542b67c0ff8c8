"""A note of the catalog's bytes as the last writer left them: catalog.check, one line beside catalog.sqlite.

    5 0f3a... 9c1e...        SQLite's change counter, xxh3_128 of catalog.sqlite, xxh3_64 of this line up to here

SQLite's own integrity check does not see a changed byte in a column without an index, or in an unused page. If the
note's counter is older than the catalog's, a writer was killed after a commit, and only SQLite's check is left.
"""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import xxhash

from spade_index.errors import GalleryDamaged
from spade_index.gallery.store.files import BLOCK, IRREGULAR, create, make_durable, open_regular, write_at

CHECK = "catalog.check"
DIGITS = 10  # of a change counter, which has 32 bits
LINE_BYTES = 1000  # read of a note, at most
REMEDY = "restore it from a copy, or move the gallery away and build it again"


class NoteDamaged(GalleryDamaged):
    """catalog.check has changed since it was written."""


@dataclass(frozen=True)
class Note:
    """The contents of catalog.check."""

    counter: int
    digest: str

    def line(self) -> bytes:
        """Return the whole file."""
        text = f"{self.counter} {self.digest}"
        return f"{text} {xxhash.xxh3_64_hexdigest(text.encode())}\n".encode()

    @classmethod
    def read(cls, path: Path) -> "Note | None":
        """Read a note, or return None if there is no file. Raises NoteDamaged."""
        try:
            with os.fdopen(open_regular(path), "rb") as file:
                line = file.read(LINE_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in IRREGULAR:
                raise
            raise NoteDamaged(f"{path}: not a file; the next writer replaces it") from error
        parts = line.decode("ascii", "replace").split()
        known = len(parts) == 3 and parts[0].isdecimal() and len(parts[0]) <= DIGITS
        note = cls(int(parts[0]), parts[1]) if known else None
        if note is None or note.line() != line:
            raise NoteDamaged(f"{path}: its bytes have changed since it was written; the next writer replaces it")
        return note


def require_unchanged(catalog: Path) -> bool:
    """Compare a catalog's bytes with the note of them; return False if there is no note that applies.

    The caller prevents writes meanwhile. Raises GalleryDamaged if the catalog has changed, NoteDamaged if the note has.
    """
    note = Note.read(catalog.with_name(CHECK))
    if note is None:
        return False
    counter, valid_for, digest = _stamp(catalog)
    if counter > note.counter and counter == valid_for:
        return False
    if counter != note.counter or digest != note.digest:
        raise GalleryDamaged(f"{catalog}: its bytes have changed since they were written; {REMEDY}")
    return True


def write(catalog: Path) -> None:
    """Write the note of a catalog's bytes, durably, unless it is there already. Raises OSError."""
    path = catalog.with_name(CHECK)
    try:
        note = Note.read(path)
    except NoteDamaged:
        note = None
    counter, _, digest = _stamp(catalog)
    if note != Note(counter, digest):
        temporary = path.with_name(f"{CHECK}.tmp")
        with create(temporary) as file:
            write_at(file.fileno(), Note(counter, digest).line(), 0)
        make_durable(temporary, path)


@dataclass(frozen=True)
class Stamp:
    """The bytes of a catalog's file."""

    counter: int  # SQLite's change counter: it grows with each commit
    digest: str
    bytes: int


def copy(catalog: Path, to: Path | None) -> Stamp:
    """Copy a catalog byte for byte, or only look at its bytes. The caller prevents writes meanwhile. Raises OSError."""
    digest, header, size = xxhash.xxh3_128(), b"", 0
    with nullcontext() if to is None else create(to) as file:
        for block in _blocks(catalog):
            header = header or block[:100]
            digest.update(block)
            if file is not None:
                write_at(file.fileno(), block, size)
            size += len(block)
    return Stamp(int.from_bytes(header[24:28]), digest.hexdigest(), size)


def _stamp(catalog: Path) -> tuple[int, int, str]:
    """Return a catalog's change counter, the version that its header is valid for, and the digest of its bytes.

    The two numbers are at bytes 24 and 92 of a database file: https://www.sqlite.org/fileformat.html
    """
    digest, header = xxhash.xxh3_128(), b""
    for block in _blocks(catalog):
        header = header or block
        digest.update(block)
    return int.from_bytes(header[24:28]), int.from_bytes(header[92:96]), digest.hexdigest()


def _blocks(catalog: Path) -> Iterator[bytes]:
    """Yield a catalog's bytes. Raises OSError."""
    # Read in a child process: closing the file in this one would release all locks that SQLite holds on it anywhere in
    # this process, which may be in the middle of a commit.
    with subprocess.Popen(["cat", os.path.abspath(catalog)], stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        while block := process.stdout.read(BLOCK):
            yield block
    if process.returncode:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(catalog))
