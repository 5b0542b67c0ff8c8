"""The files that images were added from: in folders and archives, changed and gone."""

import os
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import spade_index.method.originals
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import ImageFile, find_images
from spade_index.images.plain import picture_of
from spade_index.images.tiles import box_of, crop
from spade_index.method.originals import originals
from spade_index.settings import Preprocessing

from helpers.tiled import tiled_settings
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


def test_the_original_of_a_tile_is_its_part_of_the_picture_which_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, settings = write_images(tmp_path / "folder", 2, size=(80, 56)), tiled_settings()
    with GalleryWriter(tmp_path / "gallery", settings) as writer:
        writer.add(find_images(folder), tiny_backbone())
        rows = list(writer.gallery.images())
    random_image(99, (80, 56)).save(folder / "001.png")
    decoded: list[str] = []

    def watched(file: ImageFile, how: Preprocessing) -> Image.Image:
        decoded.append(file.path)
        return picture_of(file, how)

    monkeypatch.setattr(spade_index.method.originals, "picture_of", watched)
    found = list(originals(rows[::-1], settings.preprocessing))
    assert [row.id for row, _ in found] == [row.id for row in rows[::-1] if row.id.startswith("000")]
    assert decoded == [str(folder / "000.png")]
    for row, image in found:
        part = crop(random_image(0, (80, 56)), box_of(row.id, 80, 56, settings.preprocessing))
        np.testing.assert_array_equal(image, part)


def test_paths_are_suspects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come from the catalog: what is no file is not opened, and no folder is looked through."""
    build(tmp_path / "gallery", write_images(tmp_path / "folder", 1), tiny_backbone())
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(spade_index.method.originals, "find_images", None)
    with Gallery(tmp_path / "gallery") as gallery:
        (row,) = gallery.images()
    for path in ("pipe", "pipe::x.png", "folder#2", "folder::000.png", "folder"):
        assert not list(originals([replace(row, path=str(tmp_path / path))])), path
    assert not list(originals([replace(row, path="/dev/zero")]))
