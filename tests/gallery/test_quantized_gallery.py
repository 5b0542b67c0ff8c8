"""Galleries whose maps are stored by tables that were trained on them: what they read, keep, and refuse."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from spade_index.cli.verify import verify
from spade_index.errors import FormatTooNew, GalleryDamaged, InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.location import Location
from spade_index.gallery.store import format as store_format
from spade_index.gallery.store.shard import Shard
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import DecodedImage, find_images
from spade_index.method.detector import Detector
from spade_index.settings import SearchSettings

from helpers import remote
from helpers.cli_runs import BACKBONE, refused, run
from helpers.tiny import files_of, parts_of, write_images

KEPT = (1, 2)
SEARCH = SearchSettings(gallery_neighbours=6, compared_levels=KEPT)


def compacted(path: Path, maps: str | None = "pq", levels: tuple[int, ...] | None = None) -> None:
    with GalleryWriter(path) as writer:
        writer.shard_rows = 5
        writer.compact(maps=maps, levels=levels)


def tuned(path: Path) -> None:
    """Say that a gallery compares two of its three levels."""
    with GalleryWriter(path) as writer:
        search = {"compared_levels": KEPT}
        writer.set_tuned({"search": search, "images": 12, "snapshot": writer.gallery.snapshot})


def codes(path: Path) -> dict[str, list[bytes]]:
    """Return what is stored of each image's maps."""
    with Gallery(path) as gallery:
        assert list(gallery.verify()) == []
        return {row.id: [level.tobytes() for level in gallery.stored(row).maps] for row in gallery.images()}


@pytest.fixture
def quantized(gallery_path: Path) -> Path:
    """A gallery of 12 images in three shards, whose two coarser levels are stored by tables."""
    tuned(gallery_path)
    compacted(gallery_path, levels=KEPT)
    return gallery_path


def test_it_is_smaller_and_reads_about_the_same(gallery_path: Path) -> None:
    with Gallery(gallery_path) as gallery:
        rows = {row.id: row.key for row in gallery.images()}
        before = {id: gallery.maps([key]) for id, key in rows.items()}
        bytes_before = gallery.info()["bytes_per_image"]
    compacted(gallery_path)
    with Gallery(gallery_path) as gallery:
        facts = gallery.info()
        assert (facts["maps"], facts["format_version"], facts["transcoding"]) == ("pq", 4, False)
        assert list(gallery.verify()) == []
        sizes = [int(of) for of in gallery.storage.name.split(".")[1:4]]
        shapes = gallery.settings.level_shapes
        assert facts["bytes_per_image"] == 48 + sum(n * h * w for n, (_, h, w) in zip(sizes, shapes, strict=True))
        assert facts["bytes_per_image"] < bytes_before / 4
        for row in gallery.images():
            values, stored = gallery.maps([row.key]), gallery.stored(row)
            for level, (old, new) in enumerate(zip(before[row.id], values, strict=True)):
                codec = gallery.storage.codec.of_level(level)
                np.testing.assert_array_equal(stored.maps[level], codec.encode(old[0]))
                wide = old.astype(np.float64)
                assert np.square(new - wide).mean() < 0.8 * np.square(wide - wide.mean((0, 1))).mean()
    assert files_of(gallery_path) == parts_of(gallery_path)


def test_whole_numbers_of_tables_stay_what_they_are(quantized: Path, image_folder: Callable[..., Path]) -> None:
    before = codes(quantized)
    with Gallery(quantized) as gallery:
        name = gallery.storage.name
        assert name.endswith("@1,2")
    with GalleryWriter(quantized) as writer:
        writer.remove(["001.png"])
    for maps in (None, "pq"):
        compacted(quantized, maps)
    del before["001.png"]
    assert codes(quantized) == before
    with Gallery(quantized) as gallery:
        assert gallery.storage.name == name


def test_levels_that_are_dropped_later_leave_the_codes_of_others(gallery_path: Path) -> None:
    tuned(gallery_path)
    compacted(gallery_path)
    before = codes(gallery_path)
    compacted(gallery_path, None, KEPT)
    assert codes(gallery_path) == {id: [b"", *levels[1:]] for id, levels in before.items()}


def test_images_are_added_by_the_same_tables(
    quantized: Path, image_folder: Callable[..., Path], backbone: Backbone
) -> None:
    before = codes(quantized)
    with GalleryWriter(quantized, backbone.settings) as writer:
        assert writer.add(find_images(image_folder(4, seed=8, name="more")), backbone, replace=True).replaced == 4
        name = writer.gallery.storage.name
        assert {writer.gallery.storage_of(row.shard).name for row in writer.gallery.images()} == {name}
    after = codes(quantized)
    assert [id for id in before if before[id] == after[id]] == [f"{n:03d}.png" for n in range(4, 12)]


def test_images_are_added_when_all_others_are_gone(
    quantized: Path, image_folder: Callable[..., Path], backbone: Backbone
) -> None:
    before = codes(quantized)
    with GalleryWriter(quantized, backbone.settings) as writer:
        writer.remove(list(before))
        writer.compact()
        writer.add(find_images(image_folder()), backbone)
    assert codes(quantized) == before


def test_other_codecs_are_stored_so_and_it_as_no_other(gallery_path: Path) -> None:
    compacted(gallery_path, "int8")
    compacted(gallery_path, "pq")
    for finer in ("float16", "int8", "int4"):
        with pytest.raises(InputError, match="stays lost"):
            compacted(gallery_path, finer)


def test_an_empty_gallery_has_nothing_to_train_on(gallery_path: Path) -> None:
    with GalleryWriter(gallery_path) as writer:
        writer.remove([row.id for row in writer.gallery.images()])
        with pytest.raises(InputError, match="empty: add the normal images"):
            writer.compact(maps="pq")
        assert writer.gallery.codec == "float16"


def test_a_gallery_of_one_image(tmp_path: Path, image_folder: Callable[..., Path], backbone: Backbone) -> None:
    with GalleryWriter(tmp_path / "one", backbone.settings) as writer:
        writer.add(find_images(image_folder(1)), backbone)
        writer.compact(maps="pq")
    assert list(codes(tmp_path / "one")) == ["000.png"]


def test_a_reader_keeps_the_values_that_it_opened(gallery_path: Path) -> None:
    with Gallery(gallery_path) as reader:
        keys = [row.key for row in reader.images()]
        before = reader.maps(keys)
        compacted(gallery_path)
        for old, new in zip(before, reader.maps(keys), strict=True):
            np.testing.assert_array_equal(old, new)
        reader.at()
        assert reader.codec == "pq"
        reader.maps([row.key for row in reader.images()])


def test_an_older_program_refuses_it(quantized: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_format, "VERSION", 3)
    with pytest.raises(FormatTooNew, match=r"version 4.*upgrade"):
        Gallery(quantized)


def test_it_comes_back_from_an_object_store_and_is_read_there(
    quantized: Path,
    location: Location,
    tmp_path: Path,
    backbone: Backbone,
    decoded: Callable[..., list[DecodedImage]],
) -> None:
    remote.push(quantized, location)
    remote.pull(tmp_path / "back", location)
    assert remote.contents(tmp_path / "back") == remote.contents(quantized)
    remote.grow(tmp_path / "back", tmp_path, 1)
    assert len(codes(tmp_path / "back")) == 15
    with Gallery(quantized) as here, remote.opened(tmp_path / "cache", location) as there:
        keys = [row.key for row in here.images()]
        for ours, theirs in zip(here.maps(keys), there.maps(keys), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        one, other = (Detector(gallery, backbone, SEARCH).detect(decoded()) for gallery in (here, there))
        assert [found.scores for found in one] == [found.scores for found in other]


DAMAGES = [
    "UPDATE quantizers SET tables = substr(tables, 1, 100) || x'7f' || substr(tables, 102)",
    "UPDATE quantizers SET tables = tables || x'00'",
    "UPDATE quantizers SET tables = 'text'",
    "UPDATE quantizers SET name = 'pq'",
    "DELETE FROM quantizers",
    "DROP TABLE quantizers",
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_tables_are_found_and_refused_by_one_line(damage: str, quantized: Path) -> None:
    with closing(sqlite3.connect(quantized / "catalog.sqlite")) as db, db:
        db.execute(damage)
    with pytest.raises(GalleryDamaged, match=r"tables of its maps have changed.*restore it from a copy"):
        Gallery(quantized)
    assert "tables of its maps have changed" in refused(verify.name, quantized)


def test_a_shard_that_states_other_tables_is_damaged(quantized: Path) -> None:
    other = f"pq.0.9.8.{'0' * 32}"
    with closing(sqlite3.connect(quantized / "catalog.sqlite")) as db, db:
        name, data = db.execute("SELECT name, tables FROM quantizers").fetchone()
        assert name.count(".") == 4
        db.execute("UPDATE meta SET value = ? WHERE name = 'maps'", (f"{other}@1,2",))
        db.execute("INSERT INTO quantizers VALUES (?, ?)", (other, data))
    with pytest.raises(GalleryDamaged, match=r"does not fit|have changed"):
        Gallery(quantized)


def test_a_damaged_row_is_dropped_and_all_others_keep_their_codes(quantized: Path) -> None:
    before = codes(quantized)
    with Gallery(quantized) as gallery:
        lost = gallery.image("002.png")
        path = quantized / "shards" / (gallery.catalog.shard_file(lost.shard) or "")
        at = int(Shard(path, gallery.settings).layout.maps[1][lost.row])
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    with Gallery(quantized) as gallery:
        assert any("002.png" in line for line in gallery.verify())
        gallery.maps([lost.key])  # any code is one of a row
    with GalleryWriter(quantized) as writer:
        assert writer.repair() == 1
    del before["002.png"]
    assert codes(quantized) == before


def test_from_the_command_line(gallery_path: Path, tmp_path: Path) -> None:
    few = write_images(tmp_path / "few", 3)
    assert "compact GALLERY --maps pq" in refused("build", few, tmp_path / "new", *BACKBONE, "--maps", "pq")
    run("compact", gallery_path, "--maps", "pq", "--no-measure")
    assert "pq, " in run("info", gallery_path).output
    assert "no problems" in run("verify", gallery_path).output
    assert "stays lost" in refused("compact", gallery_path, "--maps", "int4")
