"""The files that images were added from: in folders and archives, changed and gone."""

import tarfile
from pathlib import Path

import numpy as np

from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import find_images
from spade_index.method.originals import originals

from helpers.tiny import build, random_image, tiny_backbone, write_images


def test_files_are_read_from_folders_and_archives_unless_they_changed(tmp_path: Path) -> None:
    backbone, folder = tiny_backbone(), write_images(tmp_path / "folder", 3)
    with tarfile.open(tmp_path / "more.tar", "w") as archive:
        archive.add(write_images(tmp_path / "packed", 2, seed=1), "packed")
    build(tmp_path / "gallery", folder, backbone)
    with GalleryWriter(tmp_path / "gallery") as writer:
        writer.add(find_images(tmp_path / "more.tar"), backbone)
    (folder / "000.png").unlink()
    random_image(99).save(folder / "001.png")
    with Gallery(tmp_path / "gallery") as gallery:
        found = {row.id: image for row, image in originals(list(gallery.images()))}
    assert list(found) == ["002.png", "packed/000.png", "packed/001.png"]
    np.testing.assert_array_equal(found["002.png"], random_image(2))
    np.testing.assert_array_equal(found["packed/001.png"], random_image(1001))
