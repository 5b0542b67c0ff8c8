"""Galleries of two scales: a whole picture is added, replaced, removed and restored with its tiles."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images.files import ImageFile
from spade_index.images.tiles import part_ids

from helpers.tiled import SIZES, picture, tiled_settings
from helpers.tiny import tiny_backbone

BACKBONE = tiny_backbone()
SETTINGS = tiled_settings(whole=True)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[GalleryWriter]:
    with GalleryWriter(tmp_path / "gallery", SETTINGS) as opened:
        opened.shard_rows = 4
        yield opened


def pieces(id: str, version: int) -> list[str]:
    return part_ids(id, *SIZES[version], SETTINGS.preprocessing)


def ids(writer: GalleryWriter) -> list[str]:
    return [row.id for row in writer.gallery.images()]


def wholes(writer: GalleryWriter) -> list[str]:
    gallery = writer.gallery
    return list(gallery.catalog.ids(gallery.catalog.whole_keys(gallery.snapshot)).values())


def test_a_picture_is_a_row_more(writer: GalleryWriter) -> None:
    report = writer.add([picture("a", 0), picture("b@whole", 1)], BACKBONE)
    assert (report.added, report.tiles) == (2, len(pieces("a", 0) + pieces("b@whole", 1)))
    assert ids(writer) == pieces("a", 0) + pieces("b@whole", 1)
    assert wholes(writer) == ["a@whole", "b@whole@whole"]
    assert writer.gallery.catalog.picture_count(writer.gallery.snapshot) == 2
    assert list(writer.gallery.verify()) == []


def test_nothing_is_read_again_and_copies_are_known(writer: GalleryWriter) -> None:
    writer.add([picture("a", 0)], BACKBONE)

    def unread() -> bytes:
        raise AssertionError("a picture was read again")

    file = picture("a", 0)
    assert writer.add([ImageFile("a", file.path, file.size, file.mtime_ns, unread)], BACKBONE).unchanged == 1
    assert writer.add([picture("b", 0)], BACKBONE).copies == 1


def test_it_is_replaced_with_its_tiles(writer: GalleryWriter) -> None:
    writer.add([picture("a", 0), picture("b", 0, seed=1)], BACKBONE)
    assert writer.add([picture("a", 1)], BACKBONE, replace=True).replaced == 1
    assert ids(writer) == pieces("b", 0) + pieces("a", 1)
    assert wholes(writer) == ["b@whole", "a@whole"]


def test_it_is_removed_with_its_tiles_or_alone(writer: GalleryWriter) -> None:
    writer.add([picture("a", 0), picture("b", 1)], BACKBONE)
    writer.remove(["a"])
    assert ids(writer) == pieces("b", 1)
    writer.remove(["b@whole"])
    assert ids(writer) == pieces("b", 1)[:-1]
    assert writer.gallery.catalog.picture_count(writer.gallery.snapshot) == 1
    assert writer.add([picture("b", 1)], BACKBONE, keep_removed=True).unchanged == 1
    assert [row.id for row in writer.gallery.removed_images()] == [*pieces("a", 0), "b@whole"]
    writer.restore(["a", "b@whole"])
    assert sorted(ids(writer)) == sorted(pieces("a", 0) + pieces("b", 1))
