"""Feedback is noted in the commit that adds its image, or not at all."""

from pathlib import Path

import pytest

from spade_index.errors import UnknownImage
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.catalog.transaction import Transaction
from spade_index.gallery.store.record import Feedback
from spade_index.gallery.write.writer import GalleryWriter

from helpers.calls import die_at
from helpers.processes import forked, killed
from helpers.tiny import image_file, png

SAID = Feedback("false_alarm", "Ada", "a shadow")


def add(path: Path, backbone: Backbone, seed: int = 900, id: str = "feedback/1/a.png") -> int:
    """Add an image because of feedback; return the number of images that were added."""
    with GalleryWriter(path) as writer:
        return writer.add([image_file(id, png(seed))], backbone, feedback=SAID).added


@pytest.mark.parametrize("before", [True, False])
def test_killed_at_the_note(gallery_path: Path, backbone: Backbone, before: bool) -> None:
    def run() -> None:
        die_at((Transaction, "note_feedback"), 1, before=before)
        add(gallery_path, backbone)

    assert killed(forked(run))
    with Gallery(gallery_path) as gallery:
        assert len(gallery) == 12
        assert gallery.catalog.feedback() == []
    assert add(gallery_path, backbone) == 1
    with Gallery(gallery_path) as gallery:
        (row,) = gallery.catalog.feedback()
        assert (row.id, row.verdict, row.who, row.note) == ("feedback/1/a.png", *vars(SAID).values())
        assert list(gallery.verify()) == []


def test_an_image_that_is_there_gets_no_note(gallery_path: Path, backbone: Backbone) -> None:
    with GalleryWriter(gallery_path) as writer:
        there = Path(writer.gallery.image("003.png").path).read_bytes()
        assert writer.add([image_file("feedback/1/b.png", there)], backbone, feedback=SAID).copies == 1
        assert writer.gallery.catalog.feedback() == []


def test_undone_once(gallery_path: Path, backbone: Backbone) -> None:
    add(gallery_path, backbone)
    with GalleryWriter(gallery_path) as writer:
        writer.undo_feedback("feedback/1/a.png")
        assert len(writer.gallery) == 12
        with pytest.raises(UnknownImage):
            writer.undo_feedback("feedback/1/a.png")
        writer.restore(["feedback/1/a.png"])
        assert len(writer.gallery) == 13
        assert writer.gallery.catalog.feedback_about("feedback/1/a.png") is not None


def test_compaction_and_repair_keep_notes(gallery_path: Path, backbone: Backbone) -> None:
    add(gallery_path, backbone)
    with GalleryWriter(gallery_path) as writer:
        writer.remove(["003.png"])
        writer.compact()
        writer.repair()
        assert [row.id for row in writer.gallery.catalog.feedback()] == ["feedback/1/a.png"]
