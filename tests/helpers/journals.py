"""Journals of SQLite, as a crash leaves them, that name another file: SQLite deletes that file as it rolls back."""

import struct
from pathlib import Path

MAGIC = bytes.fromhex("d9d505f920a163d7")
SECTOR = 512
NONCE = 7
PENDING = 1 << 30  # the byte that SQLite locks; the page after the one it is in marks the name of another journal


def write_journal(catalog: Path, named: Path) -> Path:
    """Write a hot journal of a catalog that holds its first page, and names a file; return its path.

    See https://www.sqlite.org/fileformat.html#the_rollback_journal
    """
    data = catalog.read_bytes()
    size = int.from_bytes(data[16:18]) or 65536
    page = data[:size]
    total = sum(page[place] for place in range(size - 200, 0, -200)) + NONCE
    header = MAGIC + struct.pack(">IIIII", 1, NONCE, len(data) // size, SECTOR, size)
    record = struct.pack(">I", 1) + page + struct.pack(">I", total & 0xFFFFFFFF)
    name = str(named).encode()
    tail = struct.pack(">I", PENDING // size + 1) + name + struct.pack(">II", len(name), sum(name)) + MAGIC
    journal = catalog.with_name(catalog.name + "-journal")
    journal.write_bytes(header.ljust(SECTOR, b"\0") + record + tail)
    return journal
