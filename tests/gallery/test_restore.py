"""Restoring removed images: the same image under a new key, until `compact`; all ids or none; history stays."""

from pathlib import Path

import numpy as np
import pytest

from spade_index.errors import InputError, UnknownImage
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter

from helpers.tiny import image_file, png

REMOVED = ["003.png", "007.png"]


def test_a_restored_image_is_as_it_was(gallery_path: Path) -> None:
    with GalleryWriter(gallery_path) as writer:
        gallery = writer.gallery
        before = {id: gallery.image(id) for id in REMOVED}
        moments = gallery.totals.moments
        removed = writer.remove(REMOVED)
        assert writer.restore([*REMOVED, "007.png"]) == removed + 1 == gallery.snapshot
        assert len(gallery) == 12
        assert gallery.totals.moments == moments
        for id, old in before.items():
            new = gallery.image(id)
            assert new.key > old.key
            assert (new.shard, new.row, new.digest, new.path) == (old.shard, old.row, old.digest, old.path)
            assert gallery.nearest(gallery.pooled([old]), 1)[0][0].key == new.key
        assert gallery.catalog.removed_count() == 0
        assert list(gallery.verify()) == []
    for snapshot, there in ((removed - 1, True), (removed, False), (removed + 1, True)):
        with Gallery(gallery_path, snapshot) as then:
            assert ("003.png" in {row.id for row in then.images()}) == there


def test_all_of_a_shard_restored_in_another_order(gallery_path: Path) -> None:
    """A block of descriptors is in the order of its keys, which now differs from the order of the shard's rows."""
    with GalleryWriter(gallery_path) as writer:
        gallery = writer.gallery
        ids = [row.id for row in gallery.images() if row.shard == 1]
        writer.remove(ids)
        writer.restore(ids[::-1])
        for rebuilt in (False, True):
            for row in gallery.images():
                assert gallery.nearest(gallery.pooled([row]), 1)[0][0].id == row.id
            if not rebuilt:
                writer.build_index()


def test_all_ids_or_none(gallery_path: Path) -> None:
    with GalleryWriter(gallery_path) as writer:
        snapshot = writer.remove(REMOVED)
        with pytest.raises(UnknownImage, match=r"no removed image 'nothing\.png'.*compact"):
            writer.restore(["003.png", "nothing.png"])
        with pytest.raises(InputError, match=r"'001\.png' is there"):
            writer.restore(["003.png", "001.png"])
        with pytest.raises(UnknownImage):
            writer.restore([])
        assert (writer.gallery.snapshot, len(writer.gallery)) == (snapshot, 10)
        assert [row.id for row in writer.gallery.removed_images()] == REMOVED


def test_the_image_removed_last_is_restored(gallery_path: Path, backbone: Backbone) -> None:
    with GalleryWriter(gallery_path) as writer:
        writer.add([image_file("003.png", png(50))], backbone, replace=True)
        with pytest.raises(InputError, match="is there"):
            writer.restore(["003.png"])
        assert list(writer.gallery.removed_images()) == []
        assert writer.gallery.catalog.removed_count() == 1
        replaced = writer.gallery.image("003.png")
        writer.remove(["003.png"])
        writer.restore(["003.png"])
        assert writer.gallery.image("003.png").digest == replaced.digest


def test_removed_and_restored_again_and_again(gallery_path: Path) -> None:
    with GalleryWriter(gallery_path) as writer:
        for _ in range(3):
            writer.remove(REMOVED)
            assert writer.gallery.catalog.removed_count() == 2
            writer.restore(REMOVED)
            assert writer.gallery.catalog.removed_count() == 0
        writer.remove(["003.png"])
        maps = writer.gallery.maps([row.key for row in writer.gallery.images()])
        np.testing.assert_allclose(
            writer.gallery.level_variances(), [level.astype(float).var() for level in maps], rtol=1e-5
        )
        writer.compact()
        assert len(writer.gallery) == 11
        assert list(writer.gallery.verify()) == []
        with pytest.raises(UnknownImage, match="compact"):
            writer.restore(["003.png"])


def test_a_copy_of_a_live_image_is_not_restored(gallery_path: Path, backbone: Backbone) -> None:
    with GalleryWriter(gallery_path) as writer:
        writer.add([image_file("once.png", png(60))], backbone)
        writer.remove(["once.png"])
        writer.add([image_file("again.png", png(60))], backbone)
        snapshot = writer.remove(["003.png"])
        with pytest.raises(InputError, match=r"'once\.png' is the same file as 'again\.png'.*remove"):
            writer.restore(["003.png", "once.png"])
        assert (writer.gallery.snapshot, len(writer.gallery)) == (snapshot, 12)
        writer.remove(["again.png"])
        with pytest.raises(InputError, match=r"'again\.png' is the same file as 'once\.png'"):
            writer.restore(["once.png", "again.png"])
        writer.restore(["once.png"])
        assert writer.gallery.image("once.png").width == 40
