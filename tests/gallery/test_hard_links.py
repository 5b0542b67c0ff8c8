"""Files of a gallery that have another name, too: nothing is written to what that name stands for."""

import os
import shutil
from pathlib import Path

import pytest

from spade_index.errors import StorageError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import find_images

from helpers.tiny import files_of, write_images


def test_a_catalog_with_another_name_is_not_written(gallery_path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(gallery_path, copy, copy_function=os.link)  # as `cp -al` does
    (copy / "writer.lock").unlink()
    before = files_of(gallery_path)
    with pytest.raises(StorageError, match=r"copy/catalog\.sqlite: has another name"):
        GalleryWriter(copy)
    with Gallery(copy) as gallery:
        assert len(gallery) == 12
    assert files_of(gallery_path) == before


def test_nor_is_a_lock(gallery_path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("somebody else's")
    (gallery_path / "writer.lock").unlink()
    os.link(other, gallery_path / "writer.lock")
    with pytest.raises(StorageError, match=r"writer\.lock: is not a file of its own"):
        GalleryWriter(gallery_path)
    assert other.read_text() == "somebody else's"


def test_a_pipe_in_place_of_the_lock_is_named(gallery_path: Path) -> None:
    (gallery_path / "writer.lock").unlink()
    os.mkfifo(gallery_path / "writer.lock")
    with pytest.raises(StorageError, match=r"writer\.lock: is not a file of its own"):
        GalleryWriter(gallery_path)


@pytest.mark.parametrize("file", ["shards/000001.h5", "catalog.check", "readers/1"])
def test_others_that_are_linked_stay_as_they_were(
    gallery_path: Path, tmp_path: Path, backbone: Backbone, file: str
) -> None:
    os.link(gallery_path / file, tmp_path / "other")
    before = (tmp_path / "other").read_bytes()
    with GalleryWriter(gallery_path) as writer:
        writer.add(find_images(write_images(tmp_path / "more", 3, seed=7), "more/"), backbone)
        writer.remove(["003.png"])
        writer.compact()
    assert (tmp_path / "other").read_bytes() == before
