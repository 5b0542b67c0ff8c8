"""Galleries whose maps are codes: what they read, hold and answer, and how a gallery comes to be one."""

import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from spade_index.errors import FormatTooNew, GalleryDamaged, InputError, SettingsMismatch
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.store import format as store_format
from spade_index.gallery.store.codecs import NAMES, codec_named
from spade_index.gallery.store.layout import ShardLayout
from spade_index.gallery.store.shard import Shard, row_checksum
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import DecodedImage, find_images
from spade_index.method import calibration
from spade_index.method.detector import Detector
from spade_index.settings import ExtractionSettings, SearchSettings

SEARCH = SearchSettings(gallery_neighbours=6)
CODES = NAMES[1:]


def built(path: Path, images: Path, backbone: Backbone, codec: str) -> Path:
    with GalleryWriter(path, backbone.settings, maps=codec) as writer:
        writer.shard_rows = 5
        writer.add(find_images(images), backbone, batch_size=5)
        writer.build_index()
    return path


def compacted(path: Path, codec: str | None = None) -> None:
    with GalleryWriter(path) as writer:
        writer.shard_rows = 5
        writer.compact(maps=codec)


def answers(path: Path, backbone: Backbone, queries: list[DecodedImage]) -> list[Any]:
    """Return what a gallery holds and answers, but for keys, to be compared bit by bit."""
    with Gallery(path) as gallery:
        assert list(gallery.verify()) == []
        found = [gallery.codec, gallery.level_variances(), [row.id for row in gallery.images()]]
        for detection in Detector(gallery, backbone, SEARCH).detect(queries):
            nearest = [(neighbour.id, neighbour.distance) for neighbour in detection.neighbours]
            assert detection.pixels is not None
            found.append((detection.scores, nearest, detection.pixels.score_map.tobytes()))
        return found


@pytest.mark.parametrize("codec", NAMES)
def test_it_reads_what_the_codec_makes_of_the_maps(
    codec: str, gallery_path: Path, tmp_path: Path, image_folder: Callable[..., Path], backbone: Backbone
) -> None:
    path = built(tmp_path / "coded", image_folder(), backbone, codec)
    with Gallery(path) as coded, Gallery(gallery_path) as plain:
        rows = list(coded.images())
        assert [row.id for row in rows] == [row.id for row in plain.images()]
        facts = coded.info()
        assert (facts["maps"], facts["format_version"]) == (codec, codec_named(codec).version)
        for row in rows:
            values = plain.maps([plain.image(row.id).key])
            found, stored = coded.maps([row.key]), coded.stored(row)
            np.testing.assert_array_equal(coded.maps([row.key], [2])[0], found[2])
            for level, (before, after) in enumerate(zip(values, found, strict=True)):
                np.testing.assert_array_equal(stored.maps[level], codec_named(codec).encode(before[0]))
                np.testing.assert_allclose(after[0], before[0], atol=np.ptp(before.astype(float)) / 15)
        assert facts["bytes_per_image"] == 4 * 12 + sum(values.nbytes for values in stored.maps)


@pytest.mark.parametrize("codec", CODES)
def test_a_transcoded_gallery_answers_as_one_that_was_built_so(
    codec: str,
    gallery_path: Path,
    tmp_path: Path,
    image_folder: Callable[..., Path],
    backbone: Backbone,
    decoded: Callable[..., list[DecodedImage]],
) -> None:
    path = built(tmp_path / "coded", image_folder(), backbone, codec)
    compacted(gallery_path, codec)
    assert answers(gallery_path, backbone, decoded()) == answers(path, backbone, decoded())
    with Gallery(gallery_path) as gallery:
        assert not gallery.info()["transcoding"]
        assert len(gallery.catalog.snapshots()) == 1
        assert gallery.index_info() is not None


def test_int8_can_be_stored_as_int4_and_neither_as_anything_finer(gallery_path: Path) -> None:
    compacted(gallery_path, "int8")
    compacted(gallery_path, "int4")
    before = {path.name for path in (gallery_path / "shards").iterdir()}
    for codec in ("int8", "float16"):
        with pytest.raises(InputError, match="stays lost"):
            compacted(gallery_path, codec)
    with pytest.raises(InputError, match="one of float16, int8, int4"):
        compacted(gallery_path, "int2")
    compacted(gallery_path, "int4")
    assert {path.name for path in (gallery_path / "shards").iterdir()} == before


def test_calibrations_are_forgotten_and_images_that_were_removed_stay_out(
    gallery_path: Path, image_folder: Callable[..., Path], backbone: Backbone
) -> None:
    with GalleryWriter(gallery_path) as writer:
        calibration.store(writer, SEARCH, calibration.calibrate(writer.gallery, SEARCH))
        writer.remove(["003.png"])
        writer.compact(maps="int4")
        assert writer.gallery.catalog.calibrations() == []
        report = writer.add(find_images(image_folder(13)), backbone, keep_removed=True)
        assert (report.added, report.unchanged + report.copies, report.removed) == (1, 11, 1)
    assert list((gallery_path / "calibrations").iterdir()) == []


def test_a_reader_keeps_the_values_that_it_opened(gallery_path: Path) -> None:
    with Gallery(gallery_path) as reader:
        keys = [row.key for row in reader.images()]
        before = reader.maps(keys)
        compacted(gallery_path, "int4")
        for old, new in zip(before, reader.maps(keys), strict=True):
            np.testing.assert_array_equal(old, new)
        assert reader.codec == "float16"
    with GalleryWriter(gallery_path):
        pass
    with Gallery(gallery_path) as gallery:
        assert sum(shard.rows for shard in gallery.catalog.shards().values()) == 12


def test_images_that_are_removed_leave_the_moments_of_those_that_stay(gallery_path: Path) -> None:
    with GalleryWriter(gallery_path) as writer:
        writer.compact(maps="int8")
        whole = writer.gallery.totals
        writer.remove(["001.png"])
        assert writer.gallery.totals != whole
        writer.restore(["001.png"])
        assert writer.gallery.totals == whole


def test_adds_follow_the_gallery_and_other_codecs_are_refused(
    gallery_path: Path, image_folder: Callable[..., Path], backbone: Backbone
) -> None:
    compacted(gallery_path, "int8")
    with GalleryWriter(gallery_path, backbone.settings, maps="int8") as writer:
        report = writer.add(find_images(image_folder(3, seed=4, name="more")), backbone, replace=True)
        assert report.replaced == 3
        assert {writer.gallery.storage_of(row.shard).name for row in writer.gallery.images()} == {"int8"}
    with pytest.raises(SettingsMismatch, match=r"stores maps as int8, not int4: .*compact.*--maps int4"):
        GalleryWriter(gallery_path, backbone.settings, maps="int4")
    with pytest.raises(SettingsMismatch, match=r"stores maps as int8, not pq: .*compact.*--maps pq"):
        GalleryWriter(gallery_path, backbone.settings, maps="pq")
    with pytest.raises(InputError, match="one of float16"):
        GalleryWriter(gallery_path, backbone.settings, maps="int2")


def test_an_older_program_refuses_codes_and_reads_a_gallery_without(
    gallery_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(store_format, "VERSION", 1)
        Gallery(gallery_path).close()
    compacted(gallery_path, "int4")
    monkeypatch.setattr(store_format, "VERSION", 1)
    with pytest.raises(FormatTooNew, match=r"version 2.*upgrade"):
        Gallery(gallery_path)


@pytest.mark.parametrize("codec", CODES)
def test_a_damaged_image_is_dropped_and_all_others_keep_their_codes(codec: str, gallery_path: Path) -> None:
    compacted(gallery_path, codec)
    with Gallery(gallery_path) as gallery:
        lost = gallery.image("002.png")
        before = {row.id: gallery.stored(row).maps for row in gallery.images()}
        path = gallery_path / "shards" / (gallery.catalog.shard_file(lost.shard) or "")
        at = int(Shard(path, gallery.settings).layout.maps[0][lost.row])
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(np.array([np.inf], "<f2").tobytes())
    with Gallery(gallery_path) as gallery:
        with pytest.raises(GalleryDamaged, match="range"):
            gallery.maps([lost.key])
        assert any("002.png" in line for line in gallery.verify())
    with GalleryWriter(gallery_path) as writer:
        assert writer.repair() == 1
        assert list(writer.gallery.verify()) == []
        for row in writer.gallery.images():
            for old, new in zip(before[row.id], writer.gallery.stored(row).maps, strict=True):
                np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("stated", ["int2", "int8", "float16", 7])
def test_a_shard_of_which_all_states_another_codec_is_damaged(stated: str | int, gallery_path: Path) -> None:
    path, settings = coded_shard(gallery_path)
    with h5py.File(path, "r+") as file:
        file.attrs["maps"] = stated
    assert Shard(path, settings).damaged_rows() == []  # its datasets still state the right one
    with h5py.File(path, "r+") as file:
        for level in file["maps"].values():
            level.attrs["codec"] = stated
    with pytest.raises(GalleryDamaged):
        Shard(path, settings)


def test_rows_of_a_shard_that_states_no_codec_are_read(gallery_path: Path) -> None:
    path, settings = coded_shard(gallery_path)
    with h5py.File(path, "r+") as file:
        for of in (file, *file["maps"].values()):
            for name in list(of.attrs):
                del of.attrs[name]
    assert Shard(path, settings).damaged_rows() == []


@pytest.mark.parametrize("codec", ["float16", *CODES, "float16@1,2", "int4@1,2"])
def test_a_flipped_bit_outside_of_rows_costs_no_row_that_hdf5_can_read(codec: str, gallery_path: Path) -> None:
    path, settings = coded_shard(gallery_path, codec)
    whole = path.read_bytes()
    layout = ShardLayout.read(path, settings)
    rows = len(layout.maps[0])
    first = min(int(level.min()) for level in layout.maps)
    random = np.random.default_rng(list(codec.encode()))
    for place in random.choice(np.r_[0 : min(first, 4096), 8192:8704], 50, replace=False):
        data = bytearray(whole)
        data[place] ^= 1 << int(random.integers(8))
        path.write_bytes(data)
        readable = rows_that_hdf5_reads(path, settings, rows)
        try:
            damaged = set(Shard(path, settings).damaged_rows())
        except GalleryDamaged:
            damaged = set(range(rows))
        assert not damaged & readable, place


@pytest.mark.parametrize("name", ["settings", "maps", "codec"])
def test_an_attribute_whose_type_nests_others_does_not_end_the_process(name: str, gallery_path: Path) -> None:
    path, settings = coded_shard(gallery_path)
    whole = path.read_bytes()
    text = name.encode().ljust(8, b"\0")
    length_of_name = 16 if name == "settings" else 8  # with its zero, in units of 8
    found = 0
    place = whole.find(text)
    while place >= 0:
        if whole[place + length_of_name] == 0x19:  # a type of variable length, version 1; then its class bits
            for bit in (1, 2, 3):
                data = bytearray(whole)
                data[place + length_of_name + 1] ^= 1 << bit
                path.write_bytes(data)
                with suppress(GalleryDamaged):
                    Shard(path, settings).damaged_rows()
                found += 1
        place = whole.find(text, place + 1)
    assert found


def coded_shard(gallery_path: Path, codec: str = "int4") -> tuple[Path, ExtractionSettings]:
    """Store a gallery's maps by a codec, and some levels; return one of its shards."""
    codec, _, levels = codec.partition("@")
    if codec != "float16":
        compacted(gallery_path, codec)
    if levels:
        kept = list(map(int, levels.split(",")))
        with GalleryWriter(gallery_path) as writer:
            writer.shard_rows = 5
            writer.set_tuned({"search": {"compared_levels": kept}, "images": 12, "snapshot": writer.gallery.snapshot})
            writer.compact(levels=kept)
    with Gallery(gallery_path) as gallery:
        return min((gallery_path / "shards").iterdir()), gallery.settings


def rows_that_hdf5_reads(path: Path, settings: ExtractionSettings, rows: int) -> set[int]:
    """Return the rows of a shard that match their checksum as h5py alone reads them."""
    found = set()
    for row in range(rows):
        try:
            with h5py.File(path, "r") as file:
                names = [f"maps/{level}" for level in range(len(settings.levels))]
                maps = [file[name][row] for name in names if name in file]
                id, checksum = file["id"].asstr()[row], int(file["checksum"][row])
                if row_checksum(id, file["pooled"][row], maps, file["thumbnail"][row].tobytes()) == checksum:
                    found.add(row)
        except Exception:  # h5py raises exceptions of any kind
            continue
    return found


@pytest.mark.parametrize(("codec", "version"), [("int2", "2"), ("int4", "1")])
def test_a_catalog_that_states_an_unknown_codec_is_damaged(codec: str, version: str, gallery_path: Path) -> None:
    with closing(sqlite3.connect(gallery_path / "catalog.sqlite")) as db, db:
        db.execute("INSERT OR REPLACE INTO meta VALUES ('maps', ?)", (codec,))
        db.execute("UPDATE meta SET value = ? WHERE name = 'version'", (version,))
    with pytest.raises(GalleryDamaged, match="catalog"):
        Gallery(gallery_path)
