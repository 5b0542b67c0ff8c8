"""Galleries that are read where they were pushed to: the same answers, to the bit, by ranges of the rows alone."""

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from spade_index.errors import InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery import CATALOG, Gallery
from spade_index.gallery.location import Location
from spade_index.gallery.opening import open_gallery
from spade_index.gallery.remote import blocks, reading, store
from spade_index.gallery.remote.cache import CacheSettings
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import DecodedImage
from spade_index.settings import ExtractionSettings, Preprocessing

from helpers.remote import URL, answers, grow, opened, pull, push
from helpers.s3_server import S3
from helpers.tiny import put
from helpers.waiting import PATIENCE

Decode = Callable[..., list[DecodedImage]]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.mark.parametrize("maps", ["float16", "int8", "int4"])
def test_the_answers_are_those_of_the_disk(
    maps: str, calibrated: Path, location: Location, cache: Path, decoded: Decode, backbone: Backbone
) -> None:
    if maps != "float16":
        with GalleryWriter(calibrated) as writer:
            writer.compact(maps=maps)
    push(calibrated, location)
    with Gallery(calibrated) as here, opened(cache, location) as there:
        assert answers(there, decoded(), backbone) == answers(here, decoded(), backbone)
        assert there.info() | {"path": ""} == here.info() | {"path": ""}
        assert list(there.images()) == list(here.images())
        for row in here.images():
            assert there.thumbnail(row) == here.thumbnail(row)
            np.testing.assert_array_equal(there.pooled([row]), here.pooled([row]))
            assert all(map(np.array_equal, there.stored(row).maps, here.stored(row).maps))


def test_a_gallery_without_an_index_or_layouts(
    gallery_path: Path, s3: S3, cache: Path, decoded: Decode, backbone: Backbone
) -> None:
    with closing(sqlite3.connect(gallery_path / CATALOG, isolation_level=None)) as db:
        db.executescript("DELETE FROM layouts; DELETE FROM indexes;")
    push(gallery_path)
    with Gallery(gallery_path) as here, opened(cache) as there:
        s3.requests.clear()
        assert answers(there, decoded(), backbone) == answers(here, decoded(), backbone)
    assert [key.rpartition(".")[2] for _, key in s3.requests[:3]] == ["sums"] * 3  # of all shards at once


def test_a_second_query_asks_for_nothing(
    gallery_path: Path, s3: S3, cache: Path, decoded: Decode, backbone: Backbone
) -> None:
    push(gallery_path)
    with opened(cache) as gallery:
        first = answers(gallery, decoded(), backbone)
    s3.requests.clear()
    with opened(cache) as gallery:
        assert answers(gallery, decoded(), backbone) == first
    assert [key.rpartition("/")[2] for _, key in s3.requests] == ["gallery.json"]


def test_only_the_blocks_of_the_rows_are_asked_for(
    gallery_path: Path, s3: S3, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 4096)
    monkeypatch.setattr("spade_index.gallery.remote.sums.BLOCK", 4096)
    push(gallery_path)
    with Gallery(gallery_path) as here, opened(cache) as there:
        keys = [row.key for row in here.images()]
        s3.requests.clear()
        for some in (keys[1:3], keys[6:7]):
            for ours, theirs in zip(here.maps(some, [0]), there.maps(some, [0]), strict=True):
                np.testing.assert_array_equal(ours, theirs)
    ranged = [key.rpartition("/")[2] for _, key in s3.requests]
    assert sum(name.startswith("000001") and name.endswith(".h5") for name in ranged) <= 2
    assert not any(name.startswith("000003") for name in ranged)
    kept = sum(file.stat().st_blocks * 512 for file in cache.rglob("blocks/*/0"))
    assert kept < sum(len(data) for key, data in s3.objects.items() if "shards/" in key) / 2


@pytest.mark.parametrize("small", [0, 64 << 20])
def test_descriptors_of_a_large_index_are_read_in_parts(
    small: int, tmp_path: Path, s3: S3, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SMALL", small)
    settings = ExtractionSettings("b", "w", ("a",), ((2, 2, 2),), 512, Preprocessing())
    path = tmp_path / "wide"
    descriptors = np.random.default_rng(1).standard_normal((3000, 512), np.float32)
    put(path, settings, descriptors, [f"{number:04d}.png" for number in range(3000)])
    with GalleryWriter(path) as writer:
        writer.build_index()
    push(path)
    queries = descriptors[[7, 2900]] + np.float32(0.01)
    with Gallery(path) as here, opened(cache) as there:
        assert there.nearest(queries, 5) == here.nearest(queries, 5)
    kept = sum(512 * file.stat().st_blocks for file in cache.glob("blocks/*/*"))
    assert (kept < descriptors.nbytes / 2) == (small == 0)


def test_maps_that_are_expected_come_at_once(gallery_path: Path, s3: S3, cache: Path) -> None:
    push(gallery_path)
    with Gallery(gallery_path) as here, opened(cache) as there:
        keys = [row.key for row in here.images()]
        there.expect_maps(keys)
        assert {key.rpartition(".")[2] for _, key in s3.requests if "shards/" in key} == {"sums", "h5"}
        s3.fault = lambda handler: handler.fail(403, "AccessDenied") or True
        for level in range(3):
            for key in keys:
                np.testing.assert_array_equal(there.maps([key], [level])[0], here.maps([key], [level])[0])


def test_after_a_failure_nothing_more_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, cancelled = [], threading.Event()

    class Pool(ThreadPoolExecutor):
        """Says when those that have not begun are cancelled."""

        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            """End."""
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            cancelled.set()
            super().shutdown(wait)

    def fail(number: int) -> None:
        asked.append(number)
        if number == 0:
            raise ValueError("slow")
        assert cancelled.wait(PATIENCE)

    monkeypatch.setattr(store, "ThreadPoolExecutor", Pool)
    with pytest.raises(ValueError, match="slow"):
        store.at_once(fail, list(range(500)), blocks.AT_ONCE)
    assert len(asked) <= blocks.AT_ONCE + 1


def test_an_open_gallery_stays_as_it_is_while_another_is_pushed(
    gallery_path: Path, location: Location, cache: Path, tmp_path: Path, decoded: Decode, backbone: Backbone
) -> None:
    push(gallery_path, location)
    with opened(cache, location) as old:
        first = answers(old, decoded(), backbone)
        grow(gallery_path, tmp_path, 1)
        push(gallery_path, location)
        assert (len(old), answers(old, decoded(), backbone)) == (12, first)
        with Gallery(gallery_path) as here, opened(cache, location) as new:
            assert len(new) == 15
            assert answers(new, decoded(), backbone) == answers(here, decoded(), backbone)
        with opened(cache, location, snapshot=old.snapshot) as again:
            assert answers(again, decoded(), backbone) == first


def test_a_gallery_that_was_pushed_without_sums_is_pushed_again(gallery_path: Path, s3: S3, cache: Path) -> None:
    push(gallery_path)
    for key in [key for key in s3.objects if key.endswith(".sums")]:
        del s3.objects[key]
    assert pull(cache.parent / "back") > 0
    with opened(cache) as gallery, pytest.raises(Exception, match=r"\.sums: is missing: push the gallery again"):
        gallery.maps([row.key for row in gallery.images()])
    assert push(gallery_path) == 0
    with opened(cache) as gallery:
        gallery.maps([row.key for row in gallery.images()])


def test_open_gallery_takes_folders_and_urls(gallery_path: Path, s3: S3, cache: Path) -> None:
    push(gallery_path)
    for address in (gallery_path, str(gallery_path), URL, str(URL)):
        with open_gallery(address, cache=CacheSettings(cache)) as gallery:
            assert (len(gallery), gallery.name) == (12, "gallery")
    with pytest.raises(InputError, match="no snapshot 99"):
        open_gallery(URL, 99, CacheSettings(cache))
    with pytest.raises(InputError, match="write s3://BUCKET/PREFIX"):
        open_gallery("ftp://host/gallery")
