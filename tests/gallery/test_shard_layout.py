"""Layouts that the catalog keeps: they equal those that HDF5 reads, or are not used."""

import sqlite3
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spade_index.errors import GalleryDamaged
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.catalog.transaction import Transaction
from spade_index.gallery.store import layout as layout_module
from spade_index.gallery.store.layout import SEAL, ShardLayout, layout_to_keep
from spade_index.gallery.store.shard import Shard
from spade_index.gallery.store.shard_writer import ShardWriter
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import find_images
from spade_index.settings import ExtractionSettings, Preprocessing

from helpers.cli_runs import run
from helpers.tiny import put, random_images

DATA = Path(__file__).parents[1] / "data"
Maps = list[np.ndarray]


def settings_of(shapes: list[tuple[int, int, int]], dim: int) -> ExtractionSettings:
    names = tuple(f"level{number}" for number in range(len(shapes)))
    return ExtractionSettings("b", "w", names, tuple(shapes), dim, Preprocessing())


def write_shard(path: Path, settings: ExtractionSettings, rows: int, seed: int = 0) -> list[Maps]:
    """Write a shard of random images; return their maps."""
    images = random_images(settings, rows, seed)
    writer = ShardWriter(path.parent, int(path.stem), settings)
    for image in images:
        writer.append(image)
    assert writer.commit().path == path
    return [image.stored.maps for image in images]


def read_row(shard: Shard, settings: ExtractionSettings, row: int) -> Maps:
    maps = [np.full((h * w, c), np.nan, np.float16) for c, h, w in settings.level_shapes]
    shard.read_maps(row, maps)
    return maps


def all_maps(path: Path) -> dict[str, list[bytes]]:
    """Return the maps of all images of a gallery."""
    with Gallery(path) as gallery:
        rows = list(gallery.images())
        levels = gallery.maps([row.key for row in rows])
        return {row.id: [level[place].tobytes() for level in levels] for place, row in enumerate(rows)}


def kept(path: Path) -> dict[int, bytes]:
    with closing(sqlite3.connect(path / "catalog.sqlite")) as db:
        return dict(db.execute("SELECT shard, layout FROM layouts"))


def keep(path: Path, shard: int, layout: bytes | None) -> None:
    """Change the layout kept of a shard, such that the catalog is consistent."""
    with closing(sqlite3.connect(path / "catalog.sqlite")) as db, db:
        Transaction(db).set_layout(shard, layout)


shapes = st.tuples(st.integers(1, 90), st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(shapes, min_size=1, max_size=4), st.integers(1, 700), st.integers(1, 150), st.integers(1, 9999))
def test_a_kept_layout_equals_the_files(
    tmp_path: Path, shapes: list[tuple[int, int, int]], dim: int, rows: int, number: int
) -> None:
    path, own = tmp_path / f"{number:06d}.h5", settings_of(shapes, dim)
    maps = write_shard(path, own, rows)
    layout = layout_to_keep(number, path, own)
    assert layout is not None
    recalled = ShardLayout.recall(layout, number, path, own)
    assert recalled is not None
    assert recalled.equals(ShardLayout.read(path, own))
    shard = Shard(path, own, recalled)
    for row in {0, rows // 2, rows - 1}:
        for read, written in zip(read_row(shard, own, row), maps[row], strict=True):
            np.testing.assert_array_equal(read, written)
    assert ShardLayout.recall(layout, number + 1, path, own) is None
    assert ShardLayout.recall(layout, number, path, settings_of(shapes, dim + 1)) is None


def test_a_kept_layout_is_small(tmp_path: Path) -> None:
    own = settings_of([(64, 14, 14), (128, 7, 7), (256, 4, 4)], 320)
    write_shard(tmp_path / "000001.h5", own, 500)
    assert len(layout_to_keep(1, tmp_path / "000001.h5", own) or b"") < 400


@pytest.mark.parametrize("change", ["add", "remove", "restore", "compact", "repair", "index"])
def test_all_layouts_are_kept_after(
    change: str,
    gallery_path: Path,
    backbone: Backbone,
    image_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = all_maps(gallery_path)
    with GalleryWriter(gallery_path) as writer:
        writer.shard_rows = 5
        if change == "add":
            writer.add(find_images(image_folder(7, seed=3, name="more"), prefix="more/"), backbone)
        elif change in ("remove", "restore", "compact"):
            writer.remove(["001.png", "007.png"])
            if change == "restore":
                writer.restore(["007.png", "001.png"])
            if change == "compact":
                writer.compact()
        elif change == "repair":
            with Gallery(gallery_path) as gallery:
                row = gallery.image("003.png")
                file = gallery_path / "shards" / (gallery.catalog.shard_file(row.shard) or "")
                at = int(ShardLayout.read(file, gallery.settings).maps[0][row.row])
            data = bytearray(file.read_bytes())
            data[at] ^= 255
            file.write_bytes(data)
            assert writer.repair() == 1
        else:
            writer.build_index()
        shards = set(writer.gallery.catalog.shards())
    assert set(kept(gallery_path)) == shards
    with Gallery(gallery_path) as gallery:
        assert list(gallery.verify()) == []

    def refuse(*arguments: object) -> ShardLayout:
        raise AssertionError("HDF5 was asked")

    monkeypatch.setattr(ShardLayout, "read", refuse)
    found = all_maps(gallery_path)
    assert len(found) == {"add": 19, "remove": 10, "compact": 10, "repair": 11}.get(change, 12)
    assert {id: maps for id, maps in found.items() if id in expected} == {
        id: maps for id, maps in expected.items() if id in found
    }


def test_a_gallery_without_layouts_gets_them_for_new_shards(
    tmp_path: Path, gallery_path: Path, backbone: Backbone, image_folder: Callable[..., Path]
) -> None:
    expected = all_maps(gallery_path)
    with closing(sqlite3.connect(gallery_path / "catalog.sqlite")) as db:
        db.execute("DROP TABLE layouts")
    (gallery_path / "catalog.check").unlink()
    assert all_maps(gallery_path) == expected
    with GalleryWriter(gallery_path) as writer:
        before = set(writer.gallery.catalog.shards())
        writer.add(find_images(image_folder(3, seed=3, name="more"), prefix="more/"), backbone)
    with Gallery(gallery_path) as gallery:
        assert set(kept(gallery_path)) == set(gallery.catalog.shards()) - before
        assert list(gallery.verify()) == []
    found = all_maps(gallery_path)
    assert {id: found[id] for id in expected} == expected


def test_an_earlier_version_can_write_the_catalog(gallery_path: Path) -> None:
    """Its statements do not know of layouts."""
    with closing(sqlite3.connect(gallery_path / "catalog.sqlite")) as db, db:
        db.execute("PRAGMA foreign_keys = ON")
        (shard,) = db.execute("SELECT min(shard) FROM shards").fetchone()
        db.execute("INSERT INTO shards VALUES (?, ?, ?, ?, ?)", (99, "000099.h5", 1, 1, ""))
        db.execute("DELETE FROM images WHERE shard = ?", (shard,))
        db.execute("DELETE FROM shards WHERE shard IN (?, 99)", (shard,))
    assert shard not in kept(gallery_path)
    with Gallery(gallery_path) as gallery:
        assert set(kept(gallery_path)) == set(gallery.catalog.shards())


def test_a_kept_layout_with_a_flipped_byte_is_not_used(gallery_path: Path) -> None:
    expected = all_maps(gallery_path)
    ((shard, whole), *_) = kept(gallery_path).items()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        with Gallery(gallery_path) as gallery:
            file = gallery_path / "shards" / (gallery.catalog.shard_file(shard) or "")
            assert ShardLayout.recall(bytes(changed), shard, file, gallery.settings) is None
    for part in (b"", whole[:-1], whole[:SEAL], changed):
        keep(gallery_path, shard, bytes(part))
        assert all_maps(gallery_path) == expected


def wrong(path: Path, shard: int, by: int) -> bytes:
    """Return a kept layout that is whole, and not the file's."""
    with Gallery(path) as gallery:
        file = path / "shards" / (gallery.catalog.shard_file(shard) or "")
        layout = ShardLayout.read(file, gallery.settings)
        layout.maps[-1][-1] += by
        return layout.kept(shard, file, gallery.settings) or b""


def test_verify_finds_a_wrong_layout_and_repair_replaces_it(gallery_path: Path) -> None:
    expected = all_maps(gallery_path)
    first, second, *_ = kept(gallery_path).values()
    for shard, layout in ((1, wrong(gallery_path, 1, by=2)), (1, second), (2, first), (2, b"")):
        keep(gallery_path, shard, layout)
        with Gallery(gallery_path) as gallery:
            found = [line for line in gallery.verify() if "bytes have changed" not in line]
        assert len(found) == 1
        assert f"shards/{shard:06d}.h5" in found[0]
        done = run("verify", gallery_path, "--repair")
        assert "replaced the layout" in done.stderr
        assert done.stdout == f"{gallery_path}: 0 images dropped; 12 images at snapshot 3, no problems\n"
        assert kept(gallery_path)[1] == first
        assert kept(gallery_path)[2] == second
        assert all_maps(gallery_path) == expected
        assert run("verify", gallery_path).stdout.endswith("no problems\n")


def test_a_kept_layout_is_not_used_for_another_file(tmp_path: Path) -> None:
    """The same values at other places, as in a copy made by HDF5's own tools."""
    own = settings_of([(9, 17, 16), (40, 8, 7)], 13)
    path, other = tmp_path / "000001.h5", tmp_path / "copy.h5"
    maps = write_shard(path, own, 9)
    layout = layout_to_keep(1, path, own) or b""
    with h5py.File(path) as old, h5py.File(other, "w") as new:
        new.attrs.update(old.attrs)
        for name in ("maps", "pooled", "id", "thumbnail", "checksum"):
            old.copy(name, new)
    assert ShardLayout.recall(layout, 1, other, own) is None
    other.write_bytes(other.read_bytes().ljust(path.stat().st_size, b"\0")[: path.stat().st_size])
    assert ShardLayout.recall(layout, 1, other, own) is None
    for row in range(9):
        for read, written in zip(read_row(Shard(other, own), own, row), maps[row], strict=True):
            np.testing.assert_array_equal(read, written)


def test_a_shard_of_another_gallery_is_refused(tmp_path: Path) -> None:
    path, own = tmp_path / "gallery", settings_of([(9, 17, 16)], 13)
    put(path, own, np.eye(3, 13, dtype=np.float32), ["a", "b", "c"])
    others = ExtractionSettings("b", "x", own.levels, own.level_shapes, own.pooled_dim, own.preprocessing)
    put(tmp_path / "other", others, np.eye(3, 13, dtype=np.float32), ["a", "b", "c"])
    assert set(kept(path)) == {1}
    (tmp_path / "other" / "shards" / "000001.h5").rename(path / "shards" / "000001.h5")
    with pytest.raises(GalleryDamaged, match="other settings"):
        all_maps(path)


def test_a_kept_layout_is_not_used_with_altered_settings(gallery_path: Path) -> None:
    with closing(sqlite3.connect(gallery_path / "catalog.sqlite")) as db, db:
        db.execute("UPDATE meta SET value = replace(value, '\"tiny-0\"', '\"tiny-8\"') WHERE name = 'settings'")
    with pytest.raises(GalleryDamaged, match="other settings"):
        all_maps(gallery_path)


def test_a_kept_layout_takes_little_memory_and_lies_within_its_file(gallery_path: Path) -> None:
    """Its digest is no secret: whoever makes a gallery can make one that is whole and unpacks to gigabytes."""
    path = gallery_path / "shards" / "000001.h5"
    with Gallery(gallery_path) as gallery:
        own, kept = gallery.settings, gallery.catalog.layout(1)
    assert kept is not None
    values = np.frombuffer(zlib.decompress(kept[:-SEAL]), "<i8")

    def recalled(packed: bytes) -> ShardLayout | None:
        return ShardLayout.recall(packed + layout_module._seal(1, packed), 1, path, own)

    assert recalled(zlib.compress(values.tobytes())) is not None
    bomb = zlib.compress(bytes(1 << 28), 1)
    tracemalloc.start()
    assert recalled(bomb) is None
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()
    for place, value in ((0, -1), (1, -4096), (1, 2**62), (5, -(2**40)), (5, 2**62)):
        changed = values.copy()
        changed[place] = value
        assert recalled(zlib.compress(changed.tobytes())) is None, place
