"""Which image is in which shard row: commits, snapshots, removals. One SQLite file, the gallery's commit point.

The tables are in `catalog_schema`, the connection in `catalog_file`, the questions about images in `catalog_images`,
what transactions are made of in `changes`.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from spade_index.errors import FormatTooNew, GalleryDamaged
from spade_index.gallery.store.shard import FORMAT, VERSION
from spade_index.settings import ExtractionSettings

from . import check as catalog_check
from .check import REMEDY
from .images import CatalogImages
from .schema import ADDITIONS, create_catalog

CALIBRATION = {"thresholds": dict, "quantile": int | float, "snapshot": int, "search": str}  # what `info` shows


@dataclass(frozen=True)
class IndexRow:
    """One FAISS index."""

    snapshot: int
    file: str
    digest: str
    description: str  # JSON


class Catalog(CatalogImages):
    """The gallery's SQLite file."""

    def __init__(self, path: Path) -> None:
        """Raises GalleryNotFound, FormatTooNew, GalleryDamaged."""
        super().__init__(path)
        if self.meta("format") != FORMAT:
            raise GalleryDamaged(f"{path}: not the catalog of a gallery; {REMEDY}")
        if self._number("version") > VERSION:
            raise FormatTooNew(
                f"{path.parent}: format version {self.meta('version')} is newer than this spade_index reads "
                f"({VERSION}): pip install --upgrade spade_index"
            )
        try:
            self.settings = ExtractionSettings.from_json(self.meta("settings") or "")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise GalleryDamaged(f"{path}: its settings cannot be read ({error}); {REMEDY}") from error

    @classmethod
    def create(cls, path: Path, settings: ExtractionSettings, weights_file: str | None = None) -> "Catalog":
        """A new, empty catalog at snapshot 0; it appears whole or not at all."""
        create_catalog(path, settings, weights_file)
        return cls(path)

    def complete(self) -> None:
        """Add the tables and indexes that a gallery of before does not have."""
        self._db.executescript(ADDITIONS)

    def latest_snapshot(self) -> int:
        """The snapshot of the last commit."""
        snapshot = self._value("SELECT max(snapshot) FROM snapshots", int)
        if snapshot is None:
            raise self._damaged("it has no snapshots")
        return snapshot

    def snapshot(self, snapshot: int) -> sqlite3.Row | None:
        """created, action, images and moments of a snapshot, or None if it is not there (any more)."""
        return next(iter(self._snapshots("WHERE snapshot = ?", snapshot)), None)

    def snapshots(self) -> list[sqlite3.Row]:
        """All snapshots that can be opened, the oldest first."""
        return self._snapshots("WHERE snapshot >= ? ORDER BY snapshot", self.oldest_snapshot())

    def _snapshots(self, which: str, value: int) -> list[sqlite3.Row]:
        return self._typed(
            (int, str, str, int, str),
            f"SELECT snapshot, created, action, images, moments FROM snapshots {which}",
            (value,),
        )

    def shards(self) -> dict[int, sqlite3.Row]:
        """file, rows, bytes and digest of every shard."""
        rows = self._typed(
            (int, str, int, int, str), "SELECT shard, file, rows, bytes, digest FROM shards ORDER BY shard"
        )
        return {row["shard"]: row for row in rows}

    def next_shard(self) -> int:
        """A number that no shard has ever had."""
        return (self._value("SELECT seq FROM sqlite_sequence WHERE name = 'shards'", int) or 0) + 1

    def shard_file(self, shard: int) -> str | None:
        """The file name of a shard, or None if it is not there (any more)."""
        return self._value("SELECT file FROM shards WHERE shard = ?", str, shard)

    def layout(self, shard: int) -> bytes | None:
        """Where in its file a shard's values lie, if that was kept: see `ShardLayout.recall`."""
        if not self._has_layouts:
            return None
        return self._value("SELECT layout FROM layouts WHERE shard = ?", bytes, shard)

    @cached_property
    def _has_layouts(self) -> bool:
        return self._value("SELECT 1 FROM sqlite_master WHERE name = 'layouts'", int) is not None

    def index(self, snapshot: int) -> IndexRow | None:
        """The newest index that is not newer than a snapshot, and of after `compact`: else it proposes what is gone."""
        query = "SELECT * FROM indexes WHERE snapshot BETWEEN ? AND ? ORDER BY snapshot DESC LIMIT 1"
        return self._index(query, self.oldest_snapshot(), snapshot)

    def latest_index(self) -> IndexRow | None:
        """The index that was built last."""
        return self._index("SELECT * FROM indexes")

    def _index(self, query: str, *values: int) -> IndexRow | None:
        return next((IndexRow(*row) for row in self._typed((int, str, str, str), query, values)), None)

    def index_files(self) -> set[str]:
        """The files of all indexes."""
        return {row[0] for row in self._read("SELECT file FROM indexes")}

    def calibration(self, key: str) -> str | None:
        """The thresholds stored for search settings, as JSON."""
        return self._value("SELECT value FROM calibrations WHERE key = ?", str, key)

    def calibrations(self) -> list[dict[str, object]]:
        """All stored thresholds, as `calibration.calibrate` gives them."""
        try:
            found = [json.loads(row[0]) for row in self._read("SELECT value FROM calibrations")]
            for name, kind in CALIBRATION.items():
                if not all(isinstance(calibration[name], kind) for calibration in found):
                    raise ValueError(f"unexpected {name}")
            if not all(isinstance(value, int | float) for one in found for value in one["thresholds"].values()):
                raise ValueError("not a number")
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged(f"a threshold cannot be read ({error})") from error
        return found

    def require_unchanged(self) -> bool:
        """See `catalog_check.require_unchanged`."""
        with closing(self._connected()) as db:
            try:
                db.execute("BEGIN")
                db.execute("SELECT count(*) FROM meta").fetchone()  # from now on nobody commits, until it is closed
            except (sqlite3.Error, UnicodeError) as error:
                raise self._unreadable(error) from error
            return catalog_check.require_unchanged(self.path)

    def problems(self) -> Iterator[str]:
        """What is wrong with the catalog itself, one line each."""
        try:
            self.require_unchanged()
        except GalleryDamaged as error:
            yield str(error)
        yield from self.own_problems()

    def own_problems(self) -> Iterator[str]:
        """What is wrong with the catalog that can be found without a note of its bytes."""
        for (line,) in self._read("PRAGMA integrity_check"):
            if line != "ok":
                yield f"{self.path}: {' '.join(line.split())}"
        query = "SELECT count(*) FROM images LEFT JOIN shards USING (shard) WHERE row >= rows OR rows IS NULL"
        if missing := self._value(query, int):
            yield f"{self.path}: {missing} images are in no shard"
