"""Galleries that have dropped levels of their maps: what they hold, answer and refuse."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spade_index.errors import FormatTooNew, GalleryDamaged, InputError, StorageError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.location import Location
from spade_index.gallery.store import format as store_format
from spade_index.gallery.store.codecs import CODECS, NAMES, Codec
from spade_index.gallery.store.moments import maps_moments
from spade_index.gallery.store.record import StoredImage
from spade_index.gallery.store.shard import Shard
from spade_index.gallery.store.storage import MapStorage
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import DecodedImage, find_images
from spade_index.method import calibration
from spade_index.method.audit import audit
from spade_index.method.detector import Detector
from spade_index.method.storage_loss import StorageLoss
from spade_index.method.tuned import tuned_search
from spade_index.method.tuning import tune
from spade_index.method.ways import ways_of
from spade_index.settings import SearchSettings

from helpers.remote import contents, opened, pull, push
from helpers.tiny import files_of, parts_of, write_images

KEPT = (1, 2)
SEARCH = SearchSettings(gallery_neighbours=6, compared_levels=KEPT)


def tuned(path: Path, levels: tuple[int, ...] | None = KEPT) -> None:
    with GalleryWriter(path) as writer:
        search = {"gallery_neighbours": 6} | ({} if levels is None else {"compared_levels": list(levels)})
        writer.set_tuned({"search": search, "images": 12, "snapshot": writer.gallery.snapshot})


def compacted(path: Path, levels: tuple[int, ...] | None = KEPT, maps: str | None = None) -> int:
    with GalleryWriter(path) as writer:
        writer.shard_rows = 5
        return writer.compact(maps=maps, levels=levels)


def answers(path: Path, backbone: Backbone, queries: list[DecodedImage]) -> list[Any]:
    """Return what a gallery answers by its own settings, but for keys, to be compared bit by bit."""
    with Gallery(path) as gallery:
        assert list(gallery.verify()) == []
        found = []
        for detection in Detector(gallery, backbone).detect(queries):
            assert detection.pixels is not None
            nearest = [(neighbour.id, neighbour.distance) for neighbour in detection.neighbours]
            found.append((detection.scores, nearest, detection.pixels.score_map.tobytes()))
        return found


@pytest.fixture
def dropped(gallery_path: Path) -> Path:
    """Return a tuned gallery that has dropped its finest level."""
    tuned(gallery_path)
    compacted(gallery_path)
    return gallery_path


def test_its_own_search_answers_to_the_bit_and_its_bytes_fall(
    gallery_path: Path, backbone: Backbone, decoded: Callable[..., list[DecodedImage]]
) -> None:
    tuned(gallery_path)
    before = answers(gallery_path, backbone, decoded())
    with Gallery(gallery_path) as gallery:
        channels, height, width = gallery.settings.level_shapes[0]
        of_image, of_shards = gallery.info()["bytes_per_image"], gallery.info()["shard_bytes"]
        moments = gallery.totals.moments
    freed = compacted(gallery_path)
    assert answers(gallery_path, backbone, decoded()) == before
    with Gallery(gallery_path) as gallery:
        facts, finest = gallery.info(), 2 * channels * height * width
        assert (facts["maps"], facts["stored_levels"], facts["format_version"]) == ("float16", [1, 2], 3)
        assert facts["bytes_per_image"] == of_image - finest
        assert of_shards - facts["shard_bytes"] >= 12 * finest
        assert freed >= 12 * finest
        assert gallery.totals.moments == [[0, 0, 0], *moments[1:]]
        assert not facts["transcoding"]
    assert files_of(gallery_path) == parts_of(gallery_path)


@pytest.mark.parametrize("codec", NAMES)
def test_codes_and_levels_together_or_one_after_the_other(
    codec: str, gallery_path: Path, backbone: Backbone, decoded: Callable[..., list[DecodedImage]]
) -> None:
    tuned(gallery_path)
    compacted(gallery_path, levels=None, maps=codec)
    before = answers(gallery_path, backbone, decoded())
    compacted(gallery_path)
    assert answers(gallery_path, backbone, decoded()) == before
    with Gallery(gallery_path) as gallery:
        assert {gallery.storage_of(row.shard).name for row in gallery.images()} == {f"{codec}@1,2"}
    compacted(gallery_path, levels=None, maps="int4")
    with Gallery(gallery_path) as gallery:
        assert gallery.storage.name == "int4@1,2"


def test_a_search_by_a_dropped_level_says_what_can_be_done(dropped: Path, backbone: Backbone) -> None:
    with Gallery(dropped) as gallery:
        for search in (SearchSettings(), SearchSettings(compared_levels=(0, 2))):
            with pytest.raises(InputError, match=r"gallery stores level 0 no more.*--compared-levels 1,2 .*build"):
                Detector(gallery, backbone, search)
        Detector(gallery, backbone, SearchSettings(compared_levels=(2,)))
        keys = [row.key for row in gallery.images()]
        with pytest.raises(InputError, match="level 0"):
            gallery.maps(keys, [0])
        assert [level.shape[1] > 0 for level in gallery.maps(keys)] == [False, True, True]
        assert all(set(search.compared_levels or ()) <= set(KEPT) for search in ways_of(gallery))
        assert next(ways_of(gallery)).compared_levels == KEPT


def test_levels_that_the_gallery_is_searched_by_are_kept(gallery_path: Path) -> None:
    with pytest.raises(InputError, match="not tuned, and is searched by levels 0,1,2"):
        compacted(gallery_path)
    tuned(gallery_path, None)
    with pytest.raises(InputError, match="tuned to levels 0,1,2"):
        compacted(gallery_path)
    tuned(gallery_path)
    for levels, reason in (((2,), "tuned to levels 1,2"), ((), "at least one"), ((1, 2, 3), "no level 3")):
        with pytest.raises(InputError, match=reason):
            compacted(gallery_path, levels)
    compacted(gallery_path, (0, 1, 2))
    with Gallery(gallery_path) as gallery:
        assert gallery.storage == MapStorage.FLOAT16


def test_what_was_dropped_stays_lost(dropped: Path) -> None:
    with pytest.raises(InputError, match="0 was dropped and stays lost"):
        compacted(dropped, (0, 1, 2))
    shards = {path.name for path in (dropped / "shards").iterdir()}
    compacted(dropped)
    assert {path.name for path in (dropped / "shards").iterdir()} == shards
    tuned(dropped, (2,))
    compacted(dropped, (2,))
    with Gallery(dropped) as gallery:
        assert gallery.stored_levels == (2,)


def test_adds_and_removals_follow_the_gallery(
    dropped: Path, image_folder: Callable[..., Path], backbone: Backbone
) -> None:
    with GalleryWriter(dropped, backbone.settings) as writer:
        before = writer.gallery.totals
        report = writer.add(find_images(image_folder(3, seed=4, name="more")), backbone, replace=True)
        assert report.replaced == 3
        assert {writer.gallery.storage_of(row.shard).name for row in writer.gallery.images()} == {"float16@1,2"}
        assert writer.gallery.totals.moments[0] == [0, 0, 0]
        writer.remove(["003.png"])
        writer.restore(["003.png"])
        writer.compact()
        assert list(writer.gallery.verify()) == []
        assert writer.gallery.totals.moments[1] != before.moments[1]


def test_calibration_and_audit_work(dropped: Path) -> None:
    with GalleryWriter(dropped) as writer:
        search = tuned_search(writer.gallery)
        calibration.store(writer, search, calibration.calibrate(writer.gallery, search))
        assert len(writer.gallery.catalog.calibrations()) == 1
        assert audit(writer.gallery).scored == 12


def test_it_is_read_where_it_was_pushed_to(dropped: Path, tmp_path: Path) -> None:
    location = Location.parse(f"file://{tmp_path}/store/gallery")
    push(dropped, location)
    with Gallery(dropped) as here, opened(tmp_path / "cache", location) as there:
        keys = [row.key for row in here.images()]
        there.expect_maps(keys)
        assert there.info() | {"path": ""} == here.info() | {"path": ""}
        assert all(map(np.array_equal, there.maps(keys), here.maps(keys)))
        with pytest.raises(InputError, match="level 0"):
            there.maps(keys, [0])
    pull(tmp_path / "back", location)
    assert contents(tmp_path / "back") == contents(dropped)


def test_tuning_tries_levels_that_are_stored(tmp_path: Path, backbone: Backbone) -> None:
    images = write_images(tmp_path / "images", 20, size=(64, 64))
    with GalleryWriter(tmp_path / "gallery", backbone.settings) as writer:
        writer.add(find_images(images), backbone)
    tuned(tmp_path / "gallery")
    compacted(tmp_path / "gallery")
    with Gallery(tmp_path / "gallery") as gallery:
        found = tune(gallery, backbone, ways=3, images=10)
        assert all(set(of["search"]["compared_levels"]) <= set(KEPT) for of in found.tried)
        assert "synthetic defects" in StorageLoss(gallery, backbone).after(gallery)


def test_a_calibration_that_is_made_after_an_interruption_is_forgotten(
    gallery_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned(gallery_path)
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", once_roomy(2))
        with pytest.raises(StorageError, match="disk is full"):
            compacted(gallery_path)
    with GalleryWriter(gallery_path) as writer:
        assert {writer.gallery.storage_of(row.shard).name for row in writer.gallery.images()} == {
            "float16",
            "float16@1,2",
        }
        calibration.store(writer, SEARCH, calibration.calibrate(writer.gallery, SEARCH))
    compacted(gallery_path, None)
    with Gallery(gallery_path) as gallery:
        assert gallery.catalog.calibrations() == []
        assert not gallery.catalog.transcoding
        assert list(gallery.verify()) == []


def once_roomy(times: int) -> Callable[[Path], Any]:
    """Return what `shutil.disk_usage` says of a disk that is full after as many looks."""
    left = iter([1 << 40] * times)
    usage = shutil.disk_usage("/")
    return lambda path: usage._replace(free=next(left, 0))


def test_a_reader_keeps_the_levels_that_it_opened(gallery_path: Path) -> None:
    tuned(gallery_path)
    with Gallery(gallery_path) as reader:
        keys = [row.key for row in reader.images()]
        before = reader.maps(keys)
        compacted(gallery_path)
        for old, new in zip(before, reader.maps(keys), strict=True):
            np.testing.assert_array_equal(old, new)


def test_an_older_program_refuses_it(dropped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_format, "VERSION", 2)
    with pytest.raises(FormatTooNew, match=r"version 3.*upgrade"):
        Gallery(dropped)


@pytest.mark.parametrize("name", ["float16@0,1,2,3", "int4@2,1", "int4@", "int4@01", "pq@1", "int4@1,1", "int4@1@2"])
def test_names_that_no_gallery_has_are_damage(name: str, dropped: Path) -> None:
    with closing(sqlite3.connect(dropped / "catalog.sqlite")) as db, db:
        db.execute("UPDATE meta SET value = ? WHERE name = 'maps'", (name,))
    with pytest.raises(GalleryDamaged, match="stored as"):
        Gallery(dropped)


IMAGES = st.builds(lambda seed: np.random.default_rng(seed).normal(size=50).astype("<f2"), st.integers(0, 2**32 - 1))


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@given(levels=st.sets(st.integers(0, 2), min_size=1), values=IMAGES)
@settings(max_examples=30)
def test_what_a_storage_keeps_comes_back_as_its_codec_makes_it(
    codec: Codec, levels: set[int], values: np.ndarray, backbone: Backbone
) -> None:
    extraction = backbone.settings
    storage = MapStorage(codec).of_levels(sorted(levels), extraction)
    assert MapStorage.named(storage.name) == storage
    every = MapStorage.FLOAT16.value_shapes(extraction)
    maps = [np.resize(values, shape) for shape in every]
    image = StoredImage(np.zeros(extraction.pooled_dim, "<f4"), maps, b"")
    stored = image.encoded(storage)
    found = stored.decoded(extraction)
    assert sum(codes.nbytes for codes in stored.maps) == storage.map_bytes(extraction)
    whole = image.encoded(MapStorage(codec)).decoded(extraction)
    for level, decoded in enumerate(found.maps):
        np.testing.assert_array_equal(decoded, whole.maps[level] if level in levels else decoded[:0])
    assert [of[0] > 0 for of in maps_moments(found.maps)] == [level in levels for level in range(3)]
    assert found.encoded(storage).storage == storage
    if len(levels) < 3:
        with pytest.raises(ValueError, match="was dropped"):
            found.encoded(MapStorage(codec))


def test_a_shard_without_its_attributes_or_with_others_is_not_guessed(dropped: Path) -> None:
    with Gallery(dropped) as gallery:
        path, extraction = min((dropped / "shards").iterdir()), gallery.settings
    for stated in ("float16@1", "float16@0,1,2", "int4", "float16@1,9", "nothing"):
        with h5py.File(path, "r+") as file:
            file.attrs["maps"] = stated
        assert Shard(path, extraction).damaged_rows() == []  # its datasets still state it
    with h5py.File(path, "r+") as file:
        for of in (file, *file["maps"].values()):
            for name in list(of.attrs):
                del of.attrs[name]
    with pytest.raises(GalleryDamaged, match=r"shards/\d+.h5: damaged"):
        Shard(path, extraction)
