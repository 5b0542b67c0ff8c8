"""The catalog: which images, shards, snapshots, index and thresholds a gallery has.

It is one SQLite file, and its transactions are the gallery's commits. The tables are created in `schema`, their rows
are in `tables`, the queries about images in `images`, the changes in `transaction`.
"""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from spade_index.errors import FormatTooNew, GalleryDamaged
from spade_index.exact import read_json
from spade_index.gallery.store.codecs import DEFAULT
from spade_index.gallery.store.defect import channels_of
from spade_index.gallery.store.format import FORMAT, VERSION, is_too_new
from spade_index.gallery.store.names import INDEX, shard_name
from spade_index.gallery.store.quantizer import Quantized
from spade_index.gallery.store.storage import MapStorage
from spade_index.images.interest import RegionOfInterest
from spade_index.settings import ExtractionSettings

from . import check
from .calibrations import read_calibration
from .check import REMEDY
from .connection import Values
from .defects import DefectQueries
from .extraction import read_settings
from .feedback import FeedbackQueries
from .images import ImageQueries
from .regions import RegionQueries
from .schema import ADDITIONS, INTEREST, MAPS, TRANSCODING, TUNED, create_catalog
from .tables import CalibrationRow, IndexRow, ShardRow, SnapshotRow


class Catalog(ImageQueries, RegionQueries, FeedbackQueries, DefectQueries):
    """The gallery's SQLite file."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises GalleryNotFound, FormatTooNew, GalleryDamaged."""
        super().__init__(path)
        self._quantized: dict[str, Quantized] = {}  # with tables, by name
        if self.meta("format") != FORMAT:
            raise GalleryDamaged(f"{path}: not the catalog of a gallery; {REMEDY}")
        if is_too_new(self._number("version")):
            raise FormatTooNew(
                f"{path.parent}: format version {self.meta('version')} is newer than this spade_index reads "
                f"({VERSION}): pip install --upgrade spade_index"
            )
        try:
            self.settings = read_settings(self.meta("settings") or "")
        except ValueError as error:
            raise GalleryDamaged(f"{path}: its settings cannot be read ({error}); {REMEDY}") from error

    @property
    def channels(self) -> int:
        """The channels of all levels: the length of a known defect's features."""
        return channels_of(self.settings)

    @classmethod
    def create(
        cls,
        path: Path,
        settings: ExtractionSettings,
        weights_file: str | None = None,
        storage: MapStorage = MapStorage.FLOAT16,
    ) -> "Catalog":
        """Create an empty catalog at snapshot 0, atomically, and open it."""
        create_catalog(path, settings, weights_file, storage)
        return cls(path)

    def complete(self) -> None:
        """Add the tables and indexes that catalogs of earlier versions lack."""
        self._db.executescript(ADDITIONS)

    def latest_snapshot(self) -> int:
        """Return the snapshot of the last commit."""
        snapshot = self._value("SELECT max(snapshot) FROM snapshots", int)
        if snapshot is None:
            raise self._damaged("it has no snapshots")
        return snapshot

    def snapshot(self, snapshot: int) -> SnapshotRow | None:
        """Return a snapshot, or None if there is none of this number, or it was deleted."""
        return self._row(SnapshotRow, "WHERE snapshot = ?", (snapshot,))

    def snapshots(self) -> list[SnapshotRow]:
        """Return all snapshots that can be opened, the oldest first."""
        return self._rows(SnapshotRow, "WHERE snapshot >= ? ORDER BY snapshot", (self.oldest_snapshot(),))

    def shards(self) -> dict[int, ShardRow]:
        """Return all shards by number, in ascending order."""
        rows = self._rows(ShardRow, "ORDER BY shard")
        for row in rows:
            self._require_name(row.file, shard_name(row.shard))
            if row.rows < 0 or row.bytes < 0:
                raise self._damaged(f"unexpected size of shard {row.shard}")
        return {row.shard: row for row in rows}

    def used_shards(self) -> list[ShardRow]:
        """Return the shards that hold images; the others wait to be deleted."""
        used = {shard for (shard,) in self._typed((int,), "SELECT DISTINCT shard FROM images")}
        return [row for shard, row in self.shards().items() if shard in used]

    def shards_below(self, rows: int) -> dict[int, int]:
        """Return the number of rows of each shard that has fewer than this, and images; in ascending order."""
        holds = "EXISTS (SELECT 1 FROM images WHERE images.shard = shards.shard)"  # else it waits to be deleted
        query = f"SELECT shard, rows FROM shards WHERE rows < ? AND {holds} ORDER BY shard"
        return dict(self._typed((int, int), query, (rows,)))

    def next_shard(self) -> int:
        """Return a number that no shard has ever had."""
        return (self._value("SELECT seq FROM sqlite_sequence WHERE name = 'shards'", int) or 0) + 1

    def shard_file(self, shard: int) -> str | None:
        """Return the file name of a shard, or None if it was deleted."""
        file: str | None = self._value("SELECT file FROM shards WHERE shard = ?", str, shard)
        if file is not None:
            self._require_name(file, shard_name(shard))
        return file

    def layout(self, shard: int) -> bytes | None:
        """Return the layout that is kept of a shard, or None: see `ShardLayout.recall`."""
        if not self._has_layouts:
            return None
        return self._value("SELECT layout FROM layouts WHERE shard = ?", bytes, shard)

    @cached_property
    def _has_layouts(self) -> bool:
        return self._has_table("layouts")

    def index(self, snapshot: int) -> IndexRow | None:
        """Return the newest index that is not newer than a snapshot, or None.

        An index from before the last compaction would propose images that are deleted, and is not returned.
        """
        condition = "WHERE snapshot BETWEEN ? AND ? ORDER BY snapshot DESC LIMIT 1"
        return self._index(condition, (self.oldest_snapshot(), snapshot))

    def latest_index(self) -> IndexRow | None:
        """Return the index that was built last, or None."""
        return self._index("", ())

    def _index(self, condition: str, values: Values) -> IndexRow | None:
        row = self._row(IndexRow, condition, values)
        if row is not None:
            self._require_name(row.file, INDEX)
        return row

    def indexes(self) -> list[IndexRow]:
        """Return all indexes, the oldest first."""
        rows = self._rows(IndexRow, "ORDER BY snapshot")
        for row in rows:
            self._require_name(row.file, INDEX)
        return rows

    def index_files(self) -> set[str]:
        """Return the file names of all indexes."""
        return {row.file for row in self.indexes()}

    def calibration(self, key: str) -> str | None:
        """Return the thresholds stored for search settings, as JSON, or None."""
        return self._value("SELECT value FROM calibrations WHERE key = ?", str, key)

    def storage(self) -> MapStorage:
        """Return how maps are stored that are written. Raises GalleryDamaged."""
        try:
            storage = MapStorage.named(self.meta(MAPS) or DEFAULT)
            storage.levels_of(self.settings)
            storage = self.with_tables(storage)
        except ValueError as error:
            raise self._damaged(str(error)) from error
        if storage.version > self._number("version"):
            raise self._damaged(f"its format version knows no maps as {storage.name}")
        return storage

    def with_tables(self, storage: MapStorage) -> MapStorage:
        """Return it with the tables that its codec needs. Raises ValueError if they are not what was written."""
        codec = storage.codec
        if not isinstance(codec, Quantized):
            return storage
        if codec.name not in self._quantized:
            query = "SELECT tables FROM quantizers WHERE name = ? AND length(tables) IN (?, ?)"
            of = (codec.name, *codec.bytes_for(self.settings))
            data = self._value(query, bytes, *of) if self._has_table("quantizers") else None
            self._quantized[codec.name] = codec.with_tables(data or b"", self.settings)
        return replace(storage, codec=self._quantized[codec.name])

    @property
    def transcoding(self) -> bool:
        """Whether some maps are still stored otherwise."""
        return self.meta(TRANSCODING) is not None

    def tuned(self) -> dict[str, Any] | None:
        """Return how queries search by default, as `tuning.tune` chose it, or None. Raises GalleryDamaged."""
        text = self.meta(TUNED)
        if text is None:
            return None
        try:
            value = {"why": "tuned", **read_json(text)}
            noted = value.get("noted", {"changes": 0, **value})  # see `changes`
            counts = [of[name] for of in (value, noted) for name in ("images", "snapshot")] + [noted["changes"]]
            kinds_fit = isinstance(value["search"], dict) and isinstance(value["why"], str)
            if not kinds_fit or not all(type(n) is int and 0 <= n < 2**62 for n in counts):
                raise TypeError("it has other values")
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise self._damaged(f"the tuned search settings cannot be read ({error})") from error
        return value

    def interest(self) -> RegionOfInterest | None:
        """Return the part of every picture that counts, or None if it is all. Raises GalleryDamaged."""
        text = self.meta(INTEREST)
        try:
            return None if text is None else RegionOfInterest.from_json(text)
        except ValueError as error:
            raise self._damaged(str(error)) from error

    def calibration_files(self) -> dict[str, str]:
        """Return the digests of the files of all calibrations, by file name."""
        return {str(one["file"]): str(one["digest"]) for one in self.calibrations() if "file" in one}

    def calibrations(self) -> list[dict[str, object]]:
        """Return all stored thresholds, as `calibration.calibrate` gives them. Raises GalleryDamaged."""
        try:
            found = [read_calibration(row.value) for row in self._rows(CalibrationRow)]
        except ValueError as error:
            raise self._damaged(f"a threshold cannot be read ({error})") from error
        return found

    def _require_name(self, name: str, expected: str | re.Pattern[str]) -> None:
        """Raise GalleryDamaged for the name of a file that no writer gives: it may be of another folder."""
        if name != expected if isinstance(expected, str) else not expected.fullmatch(name):
            raise self._damaged(f"unexpected name of a file: {name[:100]!r}")

    def require_unchanged(self) -> bool:
        """Compare the file's bytes with the note of the last writer: see `check.require_unchanged`."""
        with self._without_commits():
            return check.require_unchanged(self.path)

    def copy(self, to: Path | None) -> check.Stamp:
        """Copy the catalog as of the last commit, byte for byte, or with None only look at its bytes.

        Raises OSError, GalleryDamaged, StorageError.
        """
        with self._without_commits():
            return check.copy(self.path, to)

    @contextmanager
    def _without_commits(self) -> Iterator[None]:
        """Let no process commit meanwhile."""
        with closing(self._connected()) as db:
            try:
                db.execute("BEGIN")
                db.execute("SELECT count(*) FROM meta").fetchone()  # no other process can commit until this is closed
            except (sqlite3.Error, UnicodeError) as error:
                raise self._unreadable(error) from error
            yield

    def problems(self) -> Iterator[str]:
        """Yield one line for each problem of the catalog itself."""
        try:
            self.require_unchanged()
        except GalleryDamaged as error:
            yield str(error)
        yield from self.own_problems()

    def require_sound(self) -> None:
        """Raise GalleryDamaged for the first of `own_problems`."""
        for problem in self.own_problems():
            raise GalleryDamaged(f"{problem}; {REMEDY}")

    def own_problems(self) -> Iterator[str]:
        """Yield the problems that can be found without a note of the file's bytes."""
        for (line,) in self._read("PRAGMA integrity_check"):
            if line != "ok":
                yield f"{self.path}: {' '.join(line.split())}"
        query = "SELECT count(*) FROM images LEFT JOIN shards USING (shard) WHERE row >= rows OR rows IS NULL"
        if missing := self._value(query, int):
            yield f"{self.path}: {missing} images are in no shard"
        try:
            self.interest()
            self.region_rule()
            self.feedback()
        except GalleryDamaged as error:
            yield str(error)
        yield from self.region_problems()
        yield from self.defect_problems(self.channels)
