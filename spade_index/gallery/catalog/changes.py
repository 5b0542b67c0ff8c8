"""What a transaction of the catalog is made of: each of these is called inside `Catalog.transaction`."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path


@dataclass(frozen=True)
class NewImage:
    """An image that is about to be added."""

    id: str
    digest: bytes
    path: str
    size: int
    mtime_ns: int
    width: int
    height: int


def set_meta(db: sqlite3.Connection, name: str, value: str) -> None:
    """State a fact about the gallery as a whole."""
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def new_snapshot(db: sqlite3.Connection, action: str, images: int, moments: str) -> int:
    """The next snapshot's number."""
    query = "INSERT INTO snapshots (created, action, images, moments) VALUES (?, ?, ?, ?)"
    snapshot = db.execute(query, (now(), action, images, moments)).lastrowid
    assert snapshot is not None
    return snapshot


def insert_shard(db: sqlite3.Connection, number: int, path: Path, digest: str, rows: int, layout: bytes | None) -> None:
    """Note a shard that is on disk, with its layout as `layout_to_keep` gives it."""
    db.execute("INSERT INTO shards VALUES (?, ?, ?, ?, ?)", (number, path.name, rows, path.stat().st_size, digest))
    set_layout(db, number, layout)


def set_layout(db: sqlite3.Connection, shard: int, layout: bytes | None) -> None:
    """Keep a shard's layout, in place of another, or keep none."""
    db.execute("DELETE FROM layouts WHERE shard = ?", (shard,))
    if layout is not None:
        db.execute("INSERT INTO layouts VALUES (?, ?)", (shard, layout))


def insert_images(db: sqlite3.Connection, images: Iterable[NewImage], shard: int, snapshot: int) -> None:
    """The rows of a shard, in their order."""
    names = tuple(field.name for field in fields(NewImage))
    columns = (*names, "shard", "row", "added")
    query = f"INSERT INTO images ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
    place = attrgetter(*names)
    db.executemany(query, ((*place(image), shard, row, snapshot) for row, image in enumerate(images)))


def restore_image(db: sqlite3.Connection, key: int, snapshot: int) -> None:
    """A removed image once more, under a new key and at the same place."""
    columns = "id, shard, row, digest, path, size, mtime_ns, width, height"
    query = f"INSERT INTO images ({columns}, added) SELECT {columns}, ? FROM images WHERE key = ?"
    db.execute(query, (snapshot, key))


def forget(db: sqlite3.Connection, oldest: int) -> None:
    """Delete what nobody sees who opens the gallery now."""
    db.execute("DELETE FROM images WHERE removed <= ?", (oldest,))
    db.execute("DELETE FROM snapshots WHERE snapshot < ?", (oldest,))
    db.execute("DELETE FROM shards WHERE NOT EXISTS (SELECT 1 FROM images WHERE images.shard = shards.shard)")


def replace_index(db: sqlite3.Connection, snapshot: int, file: str, digest: str, description: str) -> None:
    """This index instead of all earlier ones."""
    db.execute("DELETE FROM indexes")
    db.execute("INSERT INTO indexes VALUES (?, ?, ?, ?)", (snapshot, file, digest, description))


def set_index_aside(db: sqlite3.Connection) -> None:
    """Let nobody use the index further on; it stays for its settings, until it is replaced."""
    db.execute("UPDATE indexes SET snapshot = -1")


def move_rows(db: sqlite3.Connection, places: Iterable[tuple[int, int]], shard: int) -> None:
    """Images at these places, shard and row, are now in this shard, in this order."""
    moves = [(shard, row, *place) for row, place in enumerate(places)]
    db.executemany("UPDATE images SET shard = ?, row = ? WHERE shard = ? AND row = ?", moves)


def lose_images(db: sqlite3.Connection, keys: Iterable[int]) -> None:
    """Delete images, removed or not, and all snapshots but the latest that held one of them."""
    for key in keys:
        db.execute(
            "DELETE FROM snapshots WHERE EXISTS (SELECT 1 FROM images WHERE key = ? AND added <= snapshot "
            "AND (removed IS NULL OR removed > snapshot)) AND snapshot < (SELECT max(snapshot) FROM snapshots)",
            (key,),
        )
        db.execute("DELETE FROM images WHERE key = ?", (key,))


def now() -> str:
    """The time, as it is stored."""
    return datetime.now(UTC).isoformat(timespec="seconds")
