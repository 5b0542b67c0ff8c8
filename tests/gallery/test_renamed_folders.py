"""A gallery that takes another's name while that is written to, as a replacement by renaming folders does."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from spade_index.errors import StorageError
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter

from helpers.tiny import build, files_of, image_file, png, tiny_backbone, write_images

Step = Callable[[GalleryWriter], object]
STEPS: dict[str, Step] = {
    "nothing": lambda writer: None,
    "add": lambda writer: writer.add([image_file("new.png", png(70))], tiny_backbone()),
    "remove": lambda writer: writer.remove(["005.png"]),
    "compact": lambda writer: writer.compact(),
    "index": lambda writer: writer.build_index(),
    "repair": lambda writer: writer.repair(),
    "unused": lambda writer: writer.delete_unused(),
}


def contents(path: Path) -> dict[str, bytes]:
    """Return the contents of a gallery's files."""
    return {name: (path / name).read_bytes() for name in files_of(path)}


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another gallery, with shards of numbers that are out of use in the one that is written to, and later ones."""
    path = tmp_path / "other"
    build(path, write_images(tmp_path / "more", 14, seed=5), tiny_backbone(), shard_rows=2, batch_size=2)
    return path


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_the_other_is_touched(gallery_path: Path, other: Path, step: str, fails: bool) -> None:
    before = contents(other)
    away = gallery_path.with_name("away")

    with suppress(StorageError, ValueError), GalleryWriter(gallery_path) as writer:
        writer.remove([f"{number:03d}.png" for number in range(5)])
        writer.compact()
        gallery_path.rename(away)
        other.rename(gallery_path)
        STEPS[step](writer)
        if fails:
            raise ValueError
    assert contents(gallery_path) == before
    for path, images in ((gallery_path, 14), (away, 7)):
        with GalleryWriter(path) as writer:
            assert len(writer.gallery) == images
        with Gallery(path) as gallery:
            assert list(gallery.verify()) == []


@pytest.mark.parametrize("step", ["add", "remove", "compact", "index", "unused"])
def test_it_is_said(gallery_path: Path, other: Path, step: str) -> None:
    def run() -> None:
        with GalleryWriter(gallery_path) as writer:
            writer.remove(["000.png"])
            gallery_path.rename(gallery_path.with_name("away"))
            other.rename(gallery_path)
            STEPS[step](writer)

    with pytest.raises(StorageError, match="another folder has its name") as caught:
        run()
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_gone_is_said(gallery_path: Path) -> None:
    def run() -> None:
        with GalleryWriter(gallery_path) as writer:
            gallery_path.rename(gallery_path.with_name("away"))
            writer.remove(["000.png"])

    with pytest.raises(StorageError, match="or it is gone"):
        run()
    assert not gallery_path.exists()


READS: dict[str, Callable[[Gallery], object]] = {
    "maps": lambda gallery: [level.tobytes() for level in gallery.maps([row.key for row in gallery.images()])],
    "thumbnail": lambda gallery: [gallery.thumbnail(row) for row in gallery.images()],
    "pooled": lambda gallery: gallery.pooled(list(gallery.images())).tobytes(),
    "stored": lambda gallery: [gallery.stored(row).thumbnail for row in gallery.images()],
    "nearest": lambda gallery: gallery.nearest(np.ones((1, 12), np.float32), 3),
}


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("alike", [True, False])
def test_a_reader_takes_nothing_of_the_other(gallery_path: Path, tmp_path: Path, read: str, alike: bool) -> None:
    """Files of the same names: with the same settings, they would be read; with others, be called damaged."""
    other = tmp_path / "other"
    build(other, write_images(tmp_path / "more", 14, seed=5), tiny_backbone(0 if alike else 1), shard_rows=5)
    with Gallery(gallery_path) as gallery:
        expected = READS[read](gallery)
    with Gallery(gallery_path) as gallery:
        gallery_path.rename(gallery_path.with_name("away"))
        other.rename(gallery_path)
        try:
            assert READS[read](gallery) == expected
        except StorageError as error:
            said = str(error)
        else:
            said = "open it again"
    assert "open it again" in said
