"""A transaction of the catalog: the changes that it may make."""

import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from datetime import UTC, datetime
from operator import attrgetter
from types import MappingProxyType

import numpy as np

from spade_index.gallery.store.codecs import DEFAULT
from spade_index.gallery.store.defect import NewDefect
from spade_index.gallery.store.format import REGIONS
from spade_index.gallery.store.quantizer import Quantized
from spade_index.gallery.store.record import Feedback, ImageOrigin
from spade_index.gallery.store.shard_writer import WrittenShard
from spade_index.gallery.store.storage import MapStorage
from spade_index.images.interest import PackedRegion
from spade_index.images.region_rule import RegionRule
from spade_index.settings import ExtractionSettings

from .tables import (
    ON_PURPOSE,
    CalibrationRow,
    DefectRow,
    FeedbackRow,
    ImageRow,
    IndexRow,
    LayoutRow,
    RemovedRow,
    ShardRow,
    SnapshotRow,
    columns,
    insert,
)

NONE: Mapping[str, PackedRegion | None] = MappingProxyType({})
REGION_RULE = "regions_of_images"  # the name in `meta` of the rule by which each image has a region of its own


class Transaction:
    """Changes that are committed together, inside of `Catalog.transaction`. Methods raise sqlite3.Error.

    Images are added, removed and restored by the transaction's own snapshot: `add_snapshot` comes first.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.snapshot = -1  # that `add_snapshot` made

    def set_meta(self, name: str, value: str) -> None:
        """State a fact about the gallery as a whole."""
        self._db.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (name, value))

    def delete_meta(self, name: str) -> None:
        """Take back such a fact."""
        self._db.execute("DELETE FROM meta WHERE name = ?", (name,))

    def set_storage(self, storage: MapStorage) -> None:
        """State how maps are stored from now on, and the version of the format that knows it."""
        if storage == MapStorage.FLOAT16:  # so that programs of earlier versions find what they know
            self.delete_meta("maps")
        else:
            self.set_meta("maps", storage.name)
        if isinstance(storage.codec, Quantized):
            self._db.execute("CREATE TABLE IF NOT EXISTS quantizers (name TEXT PRIMARY KEY, tables BLOB NOT NULL)")
            values = (storage.codec.name, storage.codec.to_bytes())
            self._db.execute("INSERT OR IGNORE INTO quantizers (name, tables) VALUES (?, ?)", values)
        self._set_version()

    def _set_version(self) -> None:
        """State the version of the format that knows what the gallery has."""
        known = dict(self._db.execute("SELECT name, value FROM meta"))
        version = MapStorage.named(known.get("maps", DEFAULT)).version
        self.set_meta("version", str(version + REGIONS if REGION_RULE in known else version))

    def set_settings(self, settings: ExtractionSettings, weights_file: str | None, storage: MapStorage) -> None:
        """Give other settings to a gallery that never held an image."""
        self._db.execute("DROP TABLE IF EXISTS quantizers")  # of other images
        self.set_storage(storage)
        self.set_meta("settings", settings.to_json())
        self._db.execute("DELETE FROM meta WHERE name = 'weights_file'")
        if weights_file:
            self.set_meta("weights_file", os.path.abspath(weights_file))

    def add_snapshot(self, action: str, images: int, moments: str) -> int:
        """Begin the next snapshot, which holds `images` images, and return its number."""
        names = tuple(name for name in columns(SnapshotRow) if name != "snapshot")
        snapshot = self._db.execute(insert(SnapshotRow.table, names), (now(), action, images, moments)).lastrowid
        assert snapshot is not None
        self.snapshot = snapshot
        return snapshot

    def add_shard(self, shard: WrittenShard) -> None:
        """Name a shard that is on disk."""
        row = ShardRow(
            shard=shard.number,
            file=shard.path.name,
            rows=len(shard.images),
            bytes=shard.path.stat().st_size,
            digest=shard.digest,
        )
        self._insert(row)
        self.set_layout(shard.number, shard.layout)

    def set_layout(self, shard: int, layout: bytes | None) -> None:
        """Keep a shard's layout in place of another, or none."""
        self._db.execute("DELETE FROM layouts WHERE shard = ?", (shard,))
        if layout is not None:
            self._insert(LayoutRow(shard, layout))

    def add_images(self, shard: WrittenShard, regions: Mapping[str, PackedRegion | None] = NONE) -> None:
        """Add the images of a new shard; `regions` are their own ones, by id, of those that have one."""
        names = columns(ImageOrigin)
        origin = attrgetter(*names)
        rows = ((*origin(image), shard.number, row, self.snapshot) for row, image in enumerate(shard.images))
        self._db.executemany(insert(ImageRow.table, (*names, "shard", "row", "added")), rows)
        if regions:
            added = self._db.execute("SELECT key, id FROM images WHERE shard = ?", (shard.number,)).fetchall()
            self._set_regions({key: regions.get(id) for key, id in added})

    def note_feedback(self, feedback: Feedback, ids: Iterable[str]) -> None:
        """Note what a person said of the images with these ids, in place of what was said before."""
        for id in ids:
            self._insert(FeedbackRow(**vars(feedback), id=id, given=now()), "INSERT OR REPLACE")

    def add_known_defects(self, feedback: Feedback, id: str, digest: bytes, defects: Iterable[NewDefect]) -> None:
        """Add the defects of an image, by its file's digest, under the id of this feedback."""
        self.note_feedback(feedback, [id])
        names = tuple(name for name in columns(DefectRow) if name != "defect")
        for new in defects:
            features = np.ascontiguousarray(new.features, "<f2").tobytes()
            values = (id, new.kind, digest, new.place.to_json(), new.score, features, 0, new.picture)
            self._db.execute(insert(DefectRow.table, (*names, "picture")), values)

    def undo_known_defects(self, id: str) -> None:
        """Take back the defects that this feedback told of; only their kind and place are remembered."""
        query = f"UPDATE {DefectRow.table} SET undone = 1, features = x'', picture = x'' WHERE id = ?"
        self._db.execute(query, (id,))

    def copy_regions(self, images: Sequence[ImageRow], shard: int) -> None:
        """Give the images of a new shard the regions of these, which they replace, in this order."""
        own = (
            "SELECT rule, (SELECT key FROM images WHERE shard = ? AND row = ?), region FROM image_regions WHERE key = ?"
        )
        values = [(shard, row, image.key) for row, image in enumerate(images)]
        self._db.executemany(f"INSERT INTO image_regions (rule, key, region) {own}", values)

    def set_region_rule(self, rule: RegionRule | None, regions: Mapping[int, PackedRegion | None]) -> None:
        """Give images regions of interest of their own, by key, by a rule; None: no longer.

        Those by the rule before stay for its readers (see `forget_before`).
        """
        self.delete_meta(REGION_RULE)
        if rule is not None:
            self.set_meta(REGION_RULE, rule.to_json())
            self._db.execute("DELETE FROM image_regions WHERE rule = ?", (rule.digest,))
            self._set_regions(regions)
        self._set_version()

    def _set_regions(self, regions: Mapping[int, PackedRegion | None]) -> None:
        """Give images regions by the rule that there is."""
        rule = f"SELECT json_extract(value, '$.digest') FROM meta WHERE name = '{REGION_RULE}'"
        own = f"INSERT INTO image_regions (rule, key, region) SELECT ({rule}), ?, region FROM regions WHERE digest = ?"
        for key, region in regions.items():
            if region is not None:
                self._db.execute("INSERT OR IGNORE INTO regions (digest, value) VALUES (?, ?)", tuple(region))
                self._db.execute(own, (key, region.digest))

    def _forget_regions(self) -> None:
        """Delete the regions by earlier rules, and those that no image has."""
        rule = f"SELECT json_extract(value, '$.digest') FROM meta WHERE name = '{REGION_RULE}'"
        self._db.execute(f"DELETE FROM image_regions WHERE rule IS NOT ({rule})")
        unused = "NOT EXISTS (SELECT 1 FROM image_regions WHERE image_regions.region = regions.region)"
        self._db.execute(f"DELETE FROM regions WHERE {unused}")

    def remove_images(self, keys: Iterable[int]) -> None:
        """Remove images; their rows stay for the snapshots that held them."""
        self._db.executemany("UPDATE images SET removed = ? WHERE key = ?", [(self.snapshot, key) for key in keys])

    def restore_image(self, key: int) -> None:
        """Add a removed image once more, under a new key and at the same place."""
        names = [name for name in columns(ImageRow) if name not in ("key", "added", "removed")]
        copied = ", ".join(names)
        query = f"INSERT INTO images ({copied}, added) SELECT {copied}, ? FROM images WHERE key = ?"
        restored = self._db.execute(query, (self.snapshot, key)).lastrowid
        own = "SELECT rule, ?, region FROM image_regions WHERE key = ?"
        self._db.execute(f"INSERT INTO image_regions (rule, key, region) {own}", (restored, key))

    def move_images(self, images: Sequence[ImageRow], shard: int) -> None:
        """Move all rows that share a place with one of these images to another shard, in this order."""
        moves = [(shard, row, image.shard, image.row) for row, image in enumerate(images)]
        self._db.executemany("UPDATE images SET shard = ?, row = ? WHERE shard = ? AND row = ?", moves)

    def remember_removed(self) -> None:
        """Remember which images were removed on purpose, before their rows or snapshots are deleted."""
        names = ", ".join(columns(RemovedRow))
        found = f"SELECT {names} FROM images AS gone WHERE {ON_PURPOSE}"
        self._db.execute(f"INSERT OR REPLACE INTO {RemovedRow.table} ({names}) {found}")

    def delete_images(self, keys: Iterable[int]) -> None:
        """Delete images, removed or not, and all snapshots but the latest that held one of them."""
        self.remember_removed()
        for key in keys:
            self._db.execute(
                "DELETE FROM snapshots WHERE EXISTS (SELECT 1 FROM images WHERE key = ? AND added <= snapshot "
                "AND (removed IS NULL OR removed > snapshot)) AND snapshot < (SELECT max(snapshot) FROM snapshots)",
                (key,),
            )
            self._db.execute("DELETE FROM images WHERE key = ?", (key,))

    def forget_before(self, oldest: int) -> None:
        """Delete the rows that no snapshot from `oldest` on can see."""
        self._db.execute("DELETE FROM images WHERE removed <= ?", (oldest,))
        self._forget_regions()
        self._db.execute("DELETE FROM snapshots WHERE snapshot < ?", (oldest,))
        self._db.execute("DELETE FROM shards WHERE NOT EXISTS (SELECT 1 FROM images WHERE images.shard = shards.shard)")

    def replace_index(self, index: IndexRow) -> None:
        """Name this index in place of all earlier ones."""
        self._db.execute("DELETE FROM indexes")
        self._insert(index)

    def keep_index(self) -> None:
        """Let the index be of the snapshot that begins, which has the same images as the one that it is of."""
        self._db.execute("UPDATE indexes SET snapshot = ?", (self.snapshot,))

    def disable_index(self) -> None:
        """Let no reader use the index from now on; its row stays for its settings, until it is replaced."""
        self._db.execute("UPDATE indexes SET snapshot = -1")

    def delete_calibrations(self) -> None:
        """Delete all calibrations."""
        self._db.execute("DELETE FROM calibrations")

    def set_calibration(self, calibration: CalibrationRow) -> None:
        """Store the thresholds of search settings, in place of earlier ones."""
        self._insert(calibration, "INSERT OR REPLACE")

    def delete_calibration(self, file: str) -> None:
        """Delete the calibrations whose scores are in this file."""
        self._db.execute("DELETE FROM calibrations WHERE json_extract(value, '$.file') = ?", (file,))

    def _insert(
        self, row: ShardRow | LayoutRow | IndexRow | CalibrationRow | FeedbackRow, verb: str = "INSERT"
    ) -> None:
        self._db.execute(insert(row.table, columns(type(row)), verb), astuple(row))


def now() -> str:
    """Return the time as the catalog stores it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
