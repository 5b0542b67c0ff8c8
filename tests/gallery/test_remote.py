"""Galleries in object stores: what is pushed comes back to the bit, and nothing else is replaced."""

import threading
from pathlib import Path

import numpy as np
import pytest

from spade_index.errors import GalleryError, GalleryLocked, GalleryNotFound, InputError
from spade_index.gallery import Gallery
from spade_index.gallery.location import Location
from spade_index.gallery.remote import push as pushing
from spade_index.gallery.remote import store
from spade_index.gallery.remote.pull import Pull
from spade_index.gallery.remote.push import Push
from spade_index.gallery.remote.store import Patience
from spade_index.gallery.write.lock import WriterLock
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images.interest import RegionOfInterest

from helpers.remote import QUICK, URL, contents, grow, pull, push
from helpers.s3_server import S3, Handler
from helpers.tiny import build, tiny_backbone, write_images


def test_a_gallery_comes_back_to_the_bit(calibrated: Path, location: Location, tmp_path: Path) -> None:
    assert push(calibrated, location) > 0
    assert pull(tmp_path / "back", location) > 0
    assert contents(tmp_path / "back") == contents(calibrated)
    with Gallery(tmp_path / "back") as gallery:
        assert list(gallery.verify()) == []
    assert {entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")} == set()
    with GalleryWriter(tmp_path / "back") as writer:
        assert len(writer.gallery) == 12


def test_a_gallery_of_codes_comes_back_to_the_bit(gallery_path: Path, location: Location, tmp_path: Path) -> None:
    push(gallery_path, location)
    pull(tmp_path / "back", location)
    with GalleryWriter(gallery_path) as writer:
        writer.compact(maps="int4")
    push(gallery_path, location)
    pull(tmp_path / "back", location)
    assert contents(tmp_path / "back") == contents(gallery_path)
    grow(tmp_path / "back", tmp_path, 1)
    with Gallery(tmp_path / "back") as gallery:
        assert (gallery.codec, len(gallery), list(gallery.verify())) == ("int4", 15, [])


def test_regions_by_a_rule_come_back(gallery_path: Path, location: Location, tmp_path: Path) -> None:
    mask = np.zeros((36, 40), bool)
    mask[3:20, 5:30] = True
    with GalleryWriter(gallery_path) as writer:
        keys = [row.key for row in writer.gallery.images()]
        writer.set_region_rule("masks/{stem}.png", {keys[0]: RegionOfInterest(mask, "test").packed, keys[1]: None})
        rule = writer.gallery.region_rule
    push(gallery_path, location)
    pull(tmp_path / "back", location)
    with Gallery(tmp_path / "back") as gallery:
        assert (gallery.region_rule, list(gallery.verify())) == (rule, [])
        own = gallery.own_region(keys[0])
        assert own is not None
        np.testing.assert_array_equal(own.mask, mask)
        assert gallery.own_region(keys[1]) is None


def test_what_is_there_is_not_sent_again(gallery_path: Path, location: Location, tmp_path: Path) -> None:
    first = push(gallery_path, location)
    assert push(gallery_path, location) == 0
    pull(tmp_path / "back", location)
    grow(gallery_path, tmp_path, 1)
    assert 0 < push(gallery_path, location) < first
    assert pull(tmp_path / "back", location) < first
    assert contents(tmp_path / "back") == contents(gallery_path)
    with Gallery(tmp_path / "back") as gallery:
        assert (len(gallery), list(gallery.verify())) == (15, [])


def test_the_catalog_and_then_the_manifest_are_sent_last(gallery_path: Path, s3: S3) -> None:
    push(gallery_path)
    *files, catalog, manifest = [key.removeprefix("line 1/gallery/") for key in s3.sent()]
    assert {name.partition("/")[0] for name in files} == {"shards", "index"}
    assert catalog.startswith("catalog/")
    assert manifest == "gallery.json"


def test_large_files_are_sent_and_received_in_parts(
    gallery_path: Path, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PART", 5 << 10)
    monkeypatch.setattr("spade_index.gallery.remote.download.PART", 5 << 10)
    monkeypatch.setattr(pushing, "BLOCK", 1 << 10)
    push(gallery_path)
    assert sum("shards/" in key and method == "PUT" for method, key in s3.requests) > 3
    pull(tmp_path / "back")
    assert contents(tmp_path / "back") == contents(gallery_path)


@pytest.mark.parametrize("method", ["PUT", "GET"])
def test_small_files_travel_several_at_a_time(method: str, gallery_path: Path, s3: S3, tmp_path: Path) -> None:
    together = threading.Barrier(3)  # shards; a request that is alone stays so, and fails the test

    def meet(handler: Handler) -> bool:
        if handler.command == method and handler.key.endswith(".h5") and "/shards/" in handler.key:
            together.wait(20)
        return False

    if method == "GET":
        push(gallery_path)
    s3.fault = meet
    told: list[int] = []
    with Push(gallery_path, URL, Patience()) as pushed:
        pushed.send(told.append)
        assert sum(told) == pushed.bytes_to_send
    told.clear()
    with Pull(URL, tmp_path / "back", Patience()) as pulled:
        came = pulled.fetch(told.append)
        assert sum(told) == pulled.bytes == came
    assert contents(tmp_path / "back") == contents(gallery_path)


def test_a_push_takes_one_commit_while_a_writer_commits(gallery_path: Path, s3: S3, tmp_path: Path) -> None:
    with Push(gallery_path, URL, QUICK) as pushed:
        grow(gallery_path, tmp_path, 1)
        with GalleryWriter(gallery_path) as writer:
            writer.remove(["000.png"])
            writer.compact()
            writer.delete_unused()
        pushed.send()
    pull(tmp_path / "back")
    with Gallery(tmp_path / "back") as gallery:
        assert (len(gallery), list(gallery.verify())) == (12, [])


def test_what_is_no_gallery_or_another_one_is_not_replaced(
    gallery_path: Path, location: Location, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    build(other, write_images(tmp_path / "images-of-other", 2, 7), tiny_backbone())
    push(gallery_path, location)
    with pytest.raises((InputError, GalleryError), match=r"another gallery|changes of its own|later state"):
        push(other, location)
    with pytest.raises((InputError, GalleryError), match=r"another gallery|changes of its own|later state"):
        pull(other, location)
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match="something else than a gallery"):
        pull(tmp_path / "photographs", location)
    with pytest.raises(InputError, match="not a folder"):
        pull(tmp_path / "photographs" / "a.png", location)


def test_a_bucket_of_other_things_is_left_alone(gallery_path: Path, s3: S3) -> None:
    s3.objects[f"{URL.prefix}/photographs/a.png"] = b"a"
    with pytest.raises(InputError, match=r"something else than a gallery \('photographs/a\.png'\)"):
        push(gallery_path)
    with pytest.raises(GalleryNotFound, match="no gallery there"):
        pull(gallery_path.with_name("back"))


def test_a_later_state_is_not_replaced(gallery_path: Path, location: Location, tmp_path: Path) -> None:
    push(gallery_path, location)
    pull(tmp_path / "back", location)
    grow(tmp_path / "back", tmp_path, 1)
    with pytest.raises(GalleryError, match="later state"):
        pull(tmp_path / "back", location)
    push(tmp_path / "back", location)
    with pytest.raises(GalleryError, match="later state"):
        push(gallery_path, location)
    grow(gallery_path, tmp_path, 2)
    grow(gallery_path, tmp_path, 3)
    with pytest.raises(GalleryError, match="changes of its own"):
        push(gallery_path, location)


def test_a_gallery_that_is_written_to_is_not_replaced(gallery_path: Path, s3: S3, tmp_path: Path) -> None:
    push(gallery_path)
    pull(tmp_path / "back")
    grow(gallery_path, tmp_path, 1)
    push(gallery_path)
    lock = WriterLock(tmp_path / "back")
    lock.take()
    with pytest.raises(GalleryLocked):
        pull(tmp_path / "back")
    lock.release()
    (tmp_path / "back" / "notes.txt").write_text("mine")
    pull(tmp_path / "back")
    assert contents(tmp_path / "back") == contents(gallery_path)
    assert (tmp_path / ".back.before" / "notes.txt").read_text() == "mine"


def test_two_pulls_of_a_target_do_not_meet(gallery_path: Path, s3: S3, tmp_path: Path) -> None:
    push(gallery_path)
    with Pull(URL, tmp_path / "back", QUICK) as first:
        with pytest.raises(GalleryLocked):
            pull(tmp_path / "back")
        first.fetch()
    assert contents(tmp_path / "back") == contents(gallery_path)
