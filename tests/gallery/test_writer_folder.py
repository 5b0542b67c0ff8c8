"""Opening for writing: the lock, folders that hold something else, leftovers of a crash, other settings."""

import fcntl
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spade_index.errors import GalleryLocked, GalleryNotFound, InputError, SettingsMismatch, StorageError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.catalog import check
from spade_index.gallery.write.lock import WriterLock
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import find_images

from helpers.tiny import build, files_of, parts_of, tiny_backbone

Folder = Callable[..., Path]


def test_one_writer_at_a_time(gallery_path: Path, backbone: Backbone) -> None:
    with GalleryWriter(gallery_path):
        for settings in (None, backbone.settings):
            with pytest.raises(GalleryLocked, match=f"pid {os.getpid()}"):
                GalleryWriter(gallery_path, settings)
        with Gallery(gallery_path) as reader:
            assert len(reader) == 12
    with GalleryWriter(gallery_path):
        pass


def test_the_first_to_create_a_gallery_has_it(tmp_path: Path, backbone: Backbone) -> None:
    (tmp_path / "gallery").mkdir()
    with open(tmp_path / "gallery" / "writer.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(GalleryLocked, match="pid unknown"):
            GalleryWriter(tmp_path / "gallery", backbone.settings)
    with GalleryWriter(tmp_path / "gallery", backbone.settings):
        pass


def test_a_folder_with_something_else_is_left_alone(image_folder: Folder, backbone: Backbone) -> None:
    images = image_folder(2)
    before = files_of(images)
    with pytest.raises(InputError, match=f"{images}.*000.png"):
        GalleryWriter(images, backbone.settings)
    with pytest.raises(GalleryNotFound):
        GalleryWriter(images)
    assert files_of(images) == before


def test_a_path_that_cannot_be_a_folder(tmp_path: Path, backbone: Backbone) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError, match=str(path)):
            GalleryWriter(path, backbone.settings)
    assert files_of(tmp_path) == {"file"}


def test_leftovers_go_at_the_next_write(gallery_path: Path) -> None:
    good = files_of(gallery_path)
    for name in (
        "shards/000004.h5",
        "shards/000004.h5.tmp",
        "index/000001-9.faiss",
        "index/000001-9.h5",
        "index/000009.h5.tmp",
    ):
        (gallery_path / name).write_bytes(b"left by a crash")
    (gallery_path / "writer.lock").write_text("1 4\n")  # of the writer that was killed
    with Gallery(gallery_path) as gallery:
        assert len(gallery) == 12
    with GalleryWriter(gallery_path):
        assert files_of(gallery_path) == good


def test_a_crash_while_creating_can_be_carried_on(tmp_path: Path, image_folder: Folder, backbone: Backbone) -> None:
    path = tmp_path / "gallery"
    path.mkdir()
    for name in ("writer.lock", "catalog.tmp", "catalog.tmp-journal"):
        (path / name).write_bytes(b"left by a crash")
    build(path, image_folder(3), backbone)
    assert files_of(path) == parts_of(path)


def test_other_settings_are_refused(gallery_path: Path, image_folder: Folder) -> None:
    other = tiny_backbone(seed=1)
    before = files_of(gallery_path)
    with pytest.raises(SettingsMismatch, match=f"{gallery_path}.*tiny-0.*tiny-1"):
        GalleryWriter(gallery_path, other.settings)
    with GalleryWriter(gallery_path) as writer, pytest.raises(SettingsMismatch, match="tiny-0"):
        writer.add(find_images(image_folder(2)), other)
    with pytest.raises(SettingsMismatch, match="input_size"):
        GalleryWriter(gallery_path, tiny_backbone(size=48).settings)
    assert files_of(gallery_path) == before


def test_a_number_that_is_written_in_parts_is_whole_for_the_next_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    lock = WriterLock(tmp_path)
    lock.take()
    lock.note(99)
    short = len(f"{os.getpid()} 1")
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, bytes(data)[:short], at))
    lock.note(107)
    lock.release()
    monkeypatch.undo()
    lock = WriterLock(tmp_path)
    lock.take()
    assert lock.unfinished == 107
    lock.release()


def test_a_note_of_the_catalog_that_is_written_in_parts_is_whole(
    gallery_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Halving(io.FileIO):
        def write(self, data: Any, /) -> int:
            return super().write(bytes(data)[: len(data) // 2])

    pwrite = os.pwrite
    with GalleryWriter(gallery_path) as writer:
        writer.remove(["000.png"])
        monkeypatch.setattr(check, "create", lambda path: Halving(path, "x+"))
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, bytes(data)[: (len(data) + 1) // 2], at))
    with Gallery(gallery_path) as gallery:
        assert list(gallery.verify()) == []
