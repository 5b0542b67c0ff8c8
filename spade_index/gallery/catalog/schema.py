"""The schema of a catalog, and the creation of an empty one. The rows are in `tables`.

An image row carries the snapshot that added it and the one that removed it: a reader at snapshot s sees
`added <= s < removed`. Every change of the images is one transaction with a new snapshot.

`meta` holds the format and its version, the settings, and two numbers that change: the generation (see `generations`),
and the oldest snapshot, which is that of the last compaction. Images that were removed before it can no longer be
restored, and their rows are deleted as soon as no reader may need them.

`removed_sources` remembers the images that were removed on purpose when their rows are deleted, so that they stay out
when their folder is added again. `regions` holds regions of interest, each once, and `image_regions` says which image
has which as its own, by the digest of the rule that names them. `layouts` is a cache (see `store.layout`), which a
shard can do without. `feedback` says why an image was added, by whom and when; it stays when the image is removed.
`known_defects` holds places that people called defective; these are never among the images. `quantizers`, which is made
with the first row, holds the tables of a codec that has some, by its name (see `store.quantizer`).
"""

import os
from contextlib import closing
from dataclasses import astuple
from pathlib import Path

from spade_index.gallery.store.files import make_durable
from spade_index.gallery.store.format import FORMAT, PLAIN
from spade_index.gallery.store.storage import MapStorage
from spade_index.settings import ExtractionSettings

from .connection import connect
from .tables import SnapshotRow, columns, insert
from .transaction import Transaction, now

INTEREST = "region_of_interest"  # the name in `meta` of the part of every picture that counts, if it is not all
MAPS = "maps"  # the name in `meta` of how maps are stored that are written, if not as float16 of all levels
TRANSCODING = "transcoding"  # the name in `meta` of a note that some maps are still stored otherwise
TUNED = "tuned"  # the name in `meta` of how queries search by default: see `Catalog.tuned`
SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE shards (
    shard INTEGER PRIMARY KEY AUTOINCREMENT,
    file TEXT NOT NULL, rows INTEGER NOT NULL, bytes INTEGER NOT NULL, digest TEXT NOT NULL
);
CREATE TABLE images (
    key INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL,
    shard INTEGER NOT NULL REFERENCES shards, row INTEGER NOT NULL,
    digest BLOB NOT NULL, path TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL,
    added INTEGER NOT NULL, removed INTEGER
);
CREATE UNIQUE INDEX live_ids ON images (id) WHERE removed IS NULL;
CREATE INDEX digests ON images (digest);
CREATE INDEX additions ON images (added);
CREATE INDEX removals ON images (removed) WHERE removed IS NOT NULL;
CREATE TABLE snapshots (
    snapshot INTEGER PRIMARY KEY, created TEXT NOT NULL, action TEXT NOT NULL,
    images INTEGER NOT NULL, moments TEXT NOT NULL
);
CREATE TABLE indexes (
    snapshot INTEGER PRIMARY KEY, file TEXT NOT NULL, digest TEXT NOT NULL, description TEXT NOT NULL
);
CREATE TABLE calibrations (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
# Galleries of earlier versions lack these. `layouts` is a table of its own so that those versions can write `shards`.
ADDITIONS = """
CREATE INDEX IF NOT EXISTS places ON images (shard, row);
CREATE TABLE IF NOT EXISTS layouts (
    shard INTEGER PRIMARY KEY REFERENCES shards ON DELETE CASCADE, layout BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS removed_sources (
    id TEXT NOT NULL, digest BLOB NOT NULL, path TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, PRIMARY KEY (id, digest)
);
CREATE TABLE IF NOT EXISTS regions (region INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS image_regions (
    rule TEXT NOT NULL, key INTEGER NOT NULL REFERENCES images ON DELETE CASCADE,
    region INTEGER NOT NULL REFERENCES regions, PRIMARY KEY (rule, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS region_owners ON image_regions (key);
CREATE INDEX IF NOT EXISTS region_uses ON image_regions (region);
CREATE TABLE IF NOT EXISTS feedback (
    id TEXT PRIMARY KEY, verdict TEXT NOT NULL, who TEXT NOT NULL, note TEXT NOT NULL, given TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS known_defects (
    defect INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, kind TEXT NOT NULL, digest BLOB NOT NULL,
    place TEXT NOT NULL, score REAL NOT NULL, features BLOB NOT NULL, picture BLOB NOT NULL, undone INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS told ON known_defects (id);
"""


def create_catalog(path: Path, settings: ExtractionSettings, weights_file: str | None, storage: MapStorage) -> None:
    """Write an empty catalog at snapshot 0, atomically, of a gallery that stores maps so.

    Raises OSError, sqlite3.Error.
    """
    temporary = path.with_suffix(".tmp")
    for leftover in leftovers(path):
        leftover.unlink(missing_ok=True)
    with closing(connect(temporary)) as db:
        db.execute("PRAGMA synchronous = OFF")  # what is flushed is the whole file, in the end
        db.executescript(f"BEGIN; {SCHEMA}{ADDITIONS}")
        meta = {"format": FORMAT, "version": str(PLAIN), "settings": settings.to_json(), "created": now()}
        if weights_file:
            meta["weights_file"] = os.path.abspath(weights_file)
        db.executemany(insert("meta", ("name", "value")), meta.items())
        Transaction(db).set_storage(storage)
        created = SnapshotRow(snapshot=0, created=now(), action="create", images=0, moments="[]")
        db.execute(insert(SnapshotRow.table, columns(SnapshotRow)), astuple(created))
        db.execute("COMMIT")
    make_durable(temporary, path)


def leftovers(path: Path) -> list[Path]:
    """Return the files that a crash during `create_catalog` may have left beside a catalog."""
    return [path.with_suffix(".tmp"), path.with_suffix(".tmp-journal")]
