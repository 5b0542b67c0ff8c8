"""The catalog: snapshots, rows, stored thresholds, and damaged files."""

import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from spade_index.errors import FormatTooNew, GalleryDamaged, GalleryNotFound, InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.catalog.catalog import Catalog
from spade_index.gallery.catalog.tables import (
    CalibrationRow,
    ImageRow,
    IndexRow,
    LayoutRow,
    Row,
    ShardRow,
    SnapshotRow,
    column_types,
    columns,
)
from spade_index.gallery.store.format import VERSION
from spade_index.gallery.write.writer import GalleryWriter

from helpers.cli_runs import refused


@pytest.fixture
def catalog(tmp_path: Path, backbone: Backbone) -> Catalog:
    return Catalog.create(tmp_path / "catalog.sqlite", backbone.settings)


def change(catalog: Catalog, add: Sequence[str] = "", remove: Sequence[str] = "") -> int:
    """Commit a snapshot that adds and removes images with these ids."""
    with catalog.transaction() as changes:
        snapshot, db = changes.add_snapshot("test", 0, "[]"), changes._db
        db.executemany(
            "UPDATE images SET removed = ? WHERE id = ? AND removed IS NULL", [(snapshot, id) for id in remove]
        )
        shard = db.execute("INSERT INTO shards (file, rows, bytes, digest) VALUES ('f', 9, 9, 'd')").lastrowid
        db.executemany(
            "INSERT INTO images (id, shard, row, digest, path, size, mtime_ns, width, height, added) "
            "VALUES (?, ?, ?, ?, ?, 1, 1, 1, 1, ?)",
            [(id, shard, row, f"bytes of {id}".encode(), f"/{id}", snapshot) for row, id in enumerate(add)],
        )
    return snapshot


def ids(catalog: Catalog, snapshot: int, after: int = -1) -> str:
    return "".join(row.id for row in catalog.images(snapshot, after))


@pytest.mark.parametrize("row", [ImageRow, ShardRow, LayoutRow, SnapshotRow, IndexRow, CalibrationRow])
def test_a_row_states_all_columns_of_its_table(catalog: Catalog, row: type[Row]) -> None:
    with closing(sqlite3.connect(catalog.path)) as db:
        described = db.execute(f"PRAGMA table_info({row.table})").fetchall()
    assert set(columns(row)) == {name for _, name, *_ in described}
    kinds = {"INTEGER": int, "TEXT": str, "BLOB": bytes}
    declared = {
        name: kinds[kind] if needed or key else kinds[kind] | None for _, name, kind, needed, _, key in described
    }
    assert dict(zip(columns(row), column_types(row), strict=True)) == declared


def test_a_snapshot_holds_images_added_and_not_removed(catalog: Catalog) -> None:
    first = change(catalog, add="abc")
    second = change(catalog, add="d", remove="b")
    third = change(catalog, add="b", remove="a")
    assert [ids(catalog, snapshot) for snapshot in (0, first, second, third)] == ["", "abc", "acd", "cdb"]
    assert [ids(catalog, third, after) for after in (first, second, third)] == ["db", "b", ""]
    assert catalog.image_by_id("b", first) != catalog.image_by_id("b", third)
    assert catalog.image_by_id("b", second) is None
    assert catalog.ids_by_digest([b"bytes of a", b"unknown"], second) == {b"bytes of a": "a"}
    assert catalog.ids_by_digest([b"bytes of a"], third) == {}
    assert catalog.removed_keys(third, since=first) == [1, 2]
    assert catalog.removed_keys(second, since=first) == [2]
    assert catalog.removed_keys(third, since=third) == []
    assert catalog.removed_count() == 2
    assert catalog.latest_snapshot() == third
    assert [row.snapshot for row in catalog.snapshots()] == [0, first, second, third]


def test_many_images_come_in_order_and_by_key(catalog: Catalog) -> None:
    names = [chr(0x4E00 + number) for number in range(2345)]
    snapshot = change(catalog, add="".join(names))
    assert ids(catalog, snapshot) == "".join(names)
    wanted = [2345, 1, 77, 1, 999_999]
    assert {key: row.id for key, row in catalog.images_by_key(wanted).items()} == {
        2345: names[2344],
        1: names[0],
        77: names[76],
    }


def steps(catalog: Catalog, ask: Callable[[], object]) -> int:
    """Return how many instructions SQLite takes for what is asked."""
    taken: list[int] = []
    catalog._db.set_progress_handler(lambda: taken.append(1), 1)
    ask()
    catalog._db.set_progress_handler(None, 1)
    return len(taken)


def test_what_came_last_is_found_without_reading_all_images(catalog: Catalog) -> None:
    snapshot = change(catalog, add=[f"{number:04d}" for number in range(50)])
    questions: list[Callable[[], object]] = [
        lambda: list(catalog.images(snapshot, after=snapshot)),
        lambda: catalog.key_range(snapshot),
    ]
    few = [steps(catalog, ask) for ask in questions]
    snapshot = change(catalog, add=[f"{number:04d}" for number in range(50, 2000)])
    assert [steps(catalog, ask) for ask in questions] == few
    assert catalog.key_range(snapshot) == (1, 2000)
    last = change(catalog, add=["last"])
    assert catalog.key_range(snapshot) == (1, 2000)
    assert [row.id for row in catalog.images(last, after=snapshot)] == ["last"]


def test_the_tiles_of_a_picture_are_found_by_its_id(catalog: Catalog) -> None:
    tiles = ["a.png@0,0", "a.png@12,0", "a.png@3,4"]
    others = ["a.png", "a.png@1,2@0,0", "a.png@x", "a.pngA@0,0", "a.pn@0,0", "b.png@0,0", "ä@0,0"]
    first = change(catalog, add=[*others, *tiles])
    second = change(catalog, remove=["a.png@12,0"])
    assert [row.id for row in catalog.tiles_of("a.png", first)] == tiles
    assert [row.id for row in catalog.tiles_of("a.png", second)] == ["a.png@0,0", "a.png@3,4"]
    assert [row.id for row in catalog.tiles_of("a.png@1,2", second)] == ["a.png@1,2@0,0"]
    assert [row.id for row in catalog.tiles_of("ä", second)] == ["ä@0,0"]
    assert catalog.tiles_of("a", second) == catalog.tiles_of("", second) == []


def test_a_failed_transaction_changes_nothing(catalog: Catalog) -> None:
    first = change(catalog, add="ab")
    with pytest.raises(sqlite3.IntegrityError):
        change(catalog, add="ca")
    assert catalog.latest_snapshot() == first
    assert ids(catalog, first) == "ab"
    assert change(catalog, add="c") == first + 1


def test_keys_and_shard_numbers_are_never_used_again(catalog: Catalog) -> None:
    snapshot = change(catalog, add="ab")
    number = catalog.next_shard()
    with catalog.transaction() as changes:
        db = changes._db
        db.execute("DELETE FROM images WHERE id = 'b'")
        db.execute("INSERT INTO shards VALUES (?, 'x', 1, 1, '')", (number,))
        db.execute("DELETE FROM shards WHERE shard = ?", (number,))
    assert catalog.next_shard() == number + 1
    assert max(row.key for row in catalog.images(change(catalog, add="c"))) == 3
    assert ids(catalog, snapshot) == "a"


def test_a_second_connection_sees_commits_only(catalog: Catalog) -> None:
    with closing(Catalog(catalog.path)) as reader:
        with catalog.transaction() as changes:
            changes.add_snapshot("test", 0, "[]")
            assert reader.latest_snapshot() == 0
        assert reader.latest_snapshot() == 1


def test_settings_survive(catalog: Catalog, backbone: Backbone) -> None:
    with closing(Catalog(catalog.path)) as again:
        assert again.settings == backbone.settings
        assert again.meta("format") == "spade-index"
        assert again.meta("weights_file") is None


CALIBRATION = {"thresholds": {"pooled": 1.5, "map": 2}, "quantile": 0.99, "snapshot": 2, "search": "K=3"}


def test_calibrations_are_kept_by_search_settings(gallery_path: Path) -> None:
    first, second, third = ({**CALIBRATION, "snapshot": snapshot} for snapshot in (1, 2, 3))
    with GalleryWriter(gallery_path) as writer:
        writer.set_calibration("a", first)
        writer.set_calibration("b", second)
        writer.set_calibration("a", third)
    with Gallery(gallery_path) as gallery:
        assert json.loads(gallery.catalog.calibration("a") or "") == third
        assert gallery.catalog.calibration("c") is None
        assert sorted(c["snapshot"] for c in gallery.info()["calibrations"]) == [2, 3]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"thresholds"', '"thresholdr"'),
        ('"quantile"', '"quantild"'),
        ('"snapshot"', '"snapshos"'),
        ('"search"', '"searcg"'),
        ("2", '"2"'),
        ("0.99", "null"),
        ("{", "["),
    ],
)
def test_info_names_a_catalog_with_altered_thresholds(gallery_path: Path, old: str, new: str) -> None:
    with GalleryWriter(gallery_path) as writer:
        writer.set_calibration("a", CALIBRATION)
    with closing(sqlite3.connect(gallery_path / "catalog.sqlite")) as db, db:
        db.execute("UPDATE calibrations SET value = replace(value, ?, ?)", (old, new))
    for options in ([], ["--json"]):
        said = refused("info", gallery_path, *options)
        assert said.startswith(f"{gallery_path}/catalog.sqlite: not a readable catalog (a threshold cannot be read")


def test_a_newer_format_is_refused(gallery_path: Path) -> None:
    with closing(sqlite3.connect(gallery_path / "catalog.sqlite")) as db, db:
        db.execute("UPDATE meta SET value = ? WHERE name = 'version'", (str(VERSION + 1),))
    with pytest.raises(FormatTooNew, match=rf"{gallery_path}.*version {VERSION + 1}.*upgrade"):
        Gallery(gallery_path)


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000, b"SQLite format 3\0" + bytes(4080)])
def test_a_file_that_is_not_a_catalog_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "catalog.sqlite"
    path.write_bytes(content)
    with pytest.raises(GalleryDamaged, match=str(path)):
        Gallery(tmp_path)


@pytest.mark.parametrize("change", ["DELETE FROM meta", "UPDATE meta SET value = 'x' WHERE name = 'format'"])
def test_another_programs_file_is_refused(gallery_path: Path, change: str) -> None:
    with closing(sqlite3.connect(gallery_path / "catalog.sqlite")) as db, db:
        db.execute(change)
    with pytest.raises(GalleryDamaged, match=r"catalog\.sqlite"):
        Gallery(gallery_path)


def test_a_truncated_catalog_is_reported(gallery_path: Path) -> None:
    path = gallery_path / "catalog.sqlite"
    data = path.read_bytes()
    path.write_bytes(data[:8192] + bytes(len(data) - 8192))
    with pytest.raises(GalleryDamaged, match=str(path)):
        Gallery(gallery_path)


def test_verify_reports_a_catalog_with_damaged_pages(gallery_path: Path) -> None:
    path = gallery_path / "catalog.sqlite"
    data = bytearray(path.read_bytes())
    with closing(sqlite3.connect(path)) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'digests'").fetchone()
    data[4096 * (page - 1) : 4096 * page] = bytes(4096)
    path.write_bytes(data)
    with Gallery(gallery_path) as gallery:
        problems = list(gallery.verify())
    assert problems
    assert all(str(path) in problem for problem in problems)


def test_no_gallery_there(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(GalleryNotFound, match=str(path)):
            Gallery(path)
        with pytest.raises(GalleryNotFound, match=str(path)):
            GalleryWriter(path)
        assert not (path / "catalog.sqlite").exists()
        assert list(tmp_path.iterdir()) == []


def test_a_value_that_no_catalog_can_hold_is_no_damage(gallery_path):
    with Gallery(gallery_path) as gallery, pytest.raises(InputError, match="not valid text"):
        gallery.image("caf\udce9.png")
    with pytest.raises(InputError, match="no snapshot"):
        Gallery(gallery_path, 10**20)
