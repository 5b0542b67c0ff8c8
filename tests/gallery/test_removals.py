"""Images that were removed on purpose stay out, whatever deletes the rest of them."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from spade_index.errors import GalleryDamaged
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.catalog.transaction import Transaction
from spade_index.gallery.write.writer import GalleryWriter

from helpers.calls import die_at
from helpers.damage import change_catalog, damage, damage_removed
from helpers.processes import forked, killed
from helpers.tiny import image_file, png

GONE = ["003.png", "011.png"]


@pytest.fixture
def thinned(gallery_path: Path) -> Path:
    """A gallery from which two images were removed."""
    with GalleryWriter(gallery_path) as writer:
        writer.remove(GONE)
    return gallery_path


def removed_again(path: Path, backbone: Backbone) -> int:
    """Add the images of the gallery once more, under other names; return the number of those that stay out."""
    with GalleryWriter(path) as writer:
        files = sorted(Path(next(writer.gallery.images()).path).parent.iterdir())
        report = writer.add(
            [image_file(f"b/{file.name}", file.read_bytes()) for file in files], backbone, keep_removed=True
        )
        assert report.added == 0
        return report.removed


def test_compact_remembers(thinned: Path, backbone: Backbone) -> None:
    for _ in range(3):
        assert removed_again(thinned, backbone) == 2
        with GalleryWriter(thinned) as writer:
            writer.compact()
        with Gallery(thinned) as gallery:
            assert list(gallery.verify()) == []
            assert list(gallery.removed_images()) == []


def test_a_reader_does_not_prevent_it(thinned: Path, backbone: Backbone) -> None:
    with Gallery(thinned, 3) as reader:
        with GalleryWriter(thinned) as writer:
            writer.compact()
        assert removed_again(thinned, backbone) == 2
        assert len(list(reader.images())) == 12
    assert removed_again(thinned, backbone) == 2


def test_repair_remembers(thinned: Path, backbone: Backbone) -> None:
    damage_removed(thinned, GONE[0])
    with GalleryWriter(thinned) as writer:
        writer.repair()
        assert [row.id for row in writer.gallery.removed_images()] == GONE[1:]
    assert removed_again(thinned, backbone) == 2


def test_a_repair_that_deletes_snapshots_takes_no_replaced_image_for_a_removed_one(
    thinned: Path, backbone: Backbone
) -> None:
    with GalleryWriter(thinned) as writer:
        before = Path(writer.gallery.image("000.png").path).read_bytes()
        writer.add([image_file("000.png", png(900))], backbone, replace=True)
        writer.remove(["007.png"])
    damage(thinned, "005.png")
    with GalleryWriter(thinned) as writer:
        writer.repair()
        assert not any(row.action == "remove" for row in writer.gallery.catalog.snapshots())
        assert {row.id for row in writer.gallery.catalog.removed_on_purpose()} == {*GONE, "007.png"}
        assert writer.add([image_file("b/000.png", before)], backbone, keep_removed=True).added == 1


@pytest.mark.parametrize("call", [1, 2])
def test_killed_while_compacting(thinned: Path, backbone: Backbone, call: int) -> None:
    def run() -> None:
        die_at((Transaction, ("remember_removed", "forget_before")[call - 1]), 1, before=False)
        with GalleryWriter(thinned) as writer:
            writer.compact()

    assert killed(forked(run))
    assert removed_again(thinned, backbone) == 2
    with GalleryWriter(thinned) as writer:
        writer.compact()
    assert removed_again(thinned, backbone) == 2


def test_a_gallery_of_an_earlier_version(thinned: Path, backbone: Backbone, tmp_path: Path) -> None:
    with closing(sqlite3.connect(thinned / "catalog.sqlite")) as db, db:
        db.execute("DROP TABLE removed_sources")
    (thinned / "catalog.check").unlink()
    with Gallery(thinned) as gallery:
        assert [row.id for row in gallery.catalog.removed_on_purpose()] == GONE
    shutil.copytree(thinned, tmp_path / "copy")
    assert removed_again(thinned, backbone) == 2
    with GalleryWriter(tmp_path / "copy") as writer:
        writer.compact()
    assert removed_again(tmp_path / "copy", backbone) == 2


def test_records_are_suspects(thinned: Path, backbone: Backbone) -> None:
    with GalleryWriter(thinned) as writer:
        writer.compact()
    change_catalog(thinned, "UPDATE removed_sources SET digest = 'text'")
    with pytest.raises(GalleryDamaged, match="unexpected values"):
        removed_again(thinned, backbone)
