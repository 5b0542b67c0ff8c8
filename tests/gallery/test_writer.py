"""Changes of a gallery: added, copied, changed, removed and compacted images, and changes that are refused."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spade_index.errors import GalleryDamaged, ImageError, InputError, UnknownImage
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import DecodedImage, ImageFile, find_images
from spade_index.method.detector import Detector
from spade_index.settings import SearchSettings

from helpers.tiny import build, image_file, png, random_image, write_images

Folder = Callable[..., Path]


def ids(path: Path) -> list[str]:
    with Gallery(path) as gallery:
        return [row.id for row in gallery.images()]


def scores(path: Path, backbone: Backbone, images: list[DecodedImage]) -> list[np.ndarray]:
    with Gallery(path) as gallery:
        found = Detector(gallery, backbone, SearchSettings(gallery_neighbours=5)).detect(images)
        return [array for d in found for array in (np.array(d.scores["pooled"]), d.pixels.score_map)]


def test_building_twice_adds_nothing(tmp_path: Path, image_folder: Folder, backbone: Backbone) -> None:
    images, path = image_folder(7), tmp_path / "gallery"
    told: list[int] = []
    first = build(path, images, backbone, batch_size=3, progress=told.append)
    assert (first.added, sum(told)) == (7, 7)
    told.clear()
    again = build(path, images, backbone, progress=told.append)
    assert (again.added, again.unchanged, sum(told)) == (0, 7, 7)
    assert ids(path) == [f"{number:03d}.png" for number in range(7)]
    with Gallery(path) as gallery:
        assert gallery.snapshot == 1


def test_a_file_that_was_only_touched_is_unchanged(gallery_path: Path, backbone: Backbone) -> None:
    with GalleryWriter(gallery_path) as writer:
        data = Path(writer.gallery.image("004.png").path).read_bytes()
        report = writer.add([image_file("004.png", data, mtime_ns=77)], backbone)
    assert (report.added, report.unchanged, report.changed) == (0, 1, 0)


@pytest.mark.parametrize("year", [1600, 2400])
def test_a_clock_that_is_centuries_wrong_stops_nothing(year: int, tmp_path: Path, backbone: Backbone) -> None:
    path = write_images(tmp_path / "images", 1) / "000.png"
    os.utime(path, ns=(0, (year - 1970) * 31_556_952 * 10**9))
    assert build(tmp_path / "gallery", tmp_path / "images", backbone).added == 1
    assert build(tmp_path / "gallery", tmp_path / "images", backbone).unchanged == 1


def test_copies_are_one_image(tmp_path: Path, image_folder: Folder, backbone: Backbone) -> None:
    images, path = image_folder(3), tmp_path / "gallery"
    shutil.copy(images / "001.png", images / "zz.png")
    notices: list[str] = []
    assert build(path, images, backbone, notice=notices.append).copies == 1
    shutil.copy(images / "002.png", images / "aa.png")
    assert build(path, images, backbone, notice=notices.append).copies == 2
    assert ids(path) == ["000.png", "001.png", "002.png"]
    assert "zz.png" in notices[0]
    assert "001.png" in notices[0]
    assert "aa.png" in notices[1]


def test_a_changed_file_is_kept_or_replaced(tmp_path: Path, image_folder: Folder, backbone: Backbone) -> None:
    images, path = image_folder(5), tmp_path / "gallery"
    build(path, images, backbone)
    with Gallery(path) as gallery:
        (old,) = gallery.pooled([gallery.image("002.png")])
    random_image(99).save(images / "002.png")
    notices: list[str] = []
    report = build(path, images, backbone, notice=notices.append)
    assert (report.changed, report.added, report.unchanged) == (1, 0, 4)
    assert "002.png" in notices[0]
    assert "--replace" in notices[0]
    with Gallery(path) as gallery:
        np.testing.assert_array_equal(gallery.pooled([gallery.image("002.png")])[0], old)
    report = build(path, images, backbone, replace=True)
    assert (report.changed, report.added, report.replaced) == (0, 1, 1)
    with Gallery(path) as gallery:
        assert len(gallery) == 5
        assert np.abs(gallery.pooled([gallery.image("002.png")])[0] - old).max() > 1e-3
    with Gallery(path, snapshot=1) as before:
        np.testing.assert_array_equal(before.pooled([before.image("002.png")])[0], old)


def test_contents_that_move_to_another_id_are_kept(gallery_path: Path, backbone: Backbone) -> None:
    with GalleryWriter(gallery_path) as writer:
        data = Path(writer.gallery.image("004.png").path).read_bytes()
        files = [image_file("004.png", png(99)), image_file("renamed.png", data)]
        report = writer.add(files, backbone, replace=True)
        assert (report.added, report.replaced, report.copies) == (2, 1, 0)
        assert len(writer.gallery) == 13


def test_undecodable_images_are_named_and_skipped(tmp_path: Path, image_folder: Folder, backbone: Backbone) -> None:
    images, path = image_folder(6), tmp_path / "gallery"
    (images / "001.png").write_bytes(b"no image")
    (images / "004.png").write_bytes((images / "003.png").read_bytes()[:200])
    notices: list[str] = []
    told: list[int] = []
    report = build(path, images, backbone, batch_size=2, notice=notices.append, progress=told.append)
    assert (report.added, report.failed, sum(told)) == (4, 2, 6)
    for name, line in zip(("001.png", "004.png"), notices, strict=True):
        assert str(images / name) in line
    assert ids(path) == ["000.png", "002.png", "003.png", "005.png"]
    assert "2 could not be decoded" in str(report)


@pytest.mark.parametrize("bad", [0, 1, 4, 5])
def test_strict_stops_and_keeps_what_came_before(
    tmp_path: Path, image_folder: Folder, backbone: Backbone, bad: int
) -> None:
    images, path = image_folder(6), tmp_path / "gallery"
    (images / f"{bad:03d}.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=f"{bad:03d}.png"):
        build(path, images, backbone, strict=True, batch_size=2, shard_rows=4)
    assert ids(path) == [f"{number:03d}.png" for number in range(bad)]


def test_a_replacement_that_stops_early_loses_nothing(gallery_path: Path, backbone: Backbone) -> None:
    files = [image_file("new.png", png(60)), image_file("003.png", png(61)), image_file("004.png", b"no image")]
    with GalleryWriter(gallery_path) as writer:
        with pytest.raises(ImageError):
            writer.add(files, backbone, replace=True, strict=True, batch_size=1)
        with pytest.raises(ImageError):
            writer.add(files[1:], backbone, replace=True, strict=True, batch_size=8)
    assert sorted(ids(gallery_path)) == sorted([f"{number:03d}.png" for number in range(12)] + ["new.png"])


def test_an_interrupt_keeps_whole_images(tmp_path: Path, image_folder: Folder, backbone: Backbone) -> None:
    path, images = tmp_path / "gallery", image_folder(9)

    def interrupt(images: int) -> None:
        told.append(images)
        if len(told) == 3:
            raise KeyboardInterrupt

    told: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        build(path, images, backbone, batch_size=2, progress=interrupt)
    assert len(ids(path)) == 6
    report = build(path, images, backbone, batch_size=2)
    assert (report.unchanged, report.added) == (6, 3)
    with Gallery(path) as gallery:
        assert list(gallery.verify()) == []


def test_removal_changes_scores_at_once(gallery_path: Path, backbone: Backbone) -> None:
    with Gallery(gallery_path) as before:
        row = before.image("005.png")
        with GalleryWriter(gallery_path) as writer:
            assert writer.remove(["005.png", "005.png"]) == before.snapshot + 1
            after = writer.gallery.nearest(before.pooled([row]), 1)[0][0]
        assert (after.id != "005.png", after.distance > 0) == (True, True)
        assert before.nearest(before.pooled([row]), 1)[0][0].id == "005.png"
    assert "005.png" not in ids(gallery_path)


def test_an_unknown_id_removes_nothing(gallery_path: Path) -> None:
    with GalleryWriter(gallery_path) as writer:
        with pytest.raises(UnknownImage, match=r"nothing\.png"):
            writer.remove(["001.png", "nothing.png"])
        with pytest.raises(UnknownImage):
            writer.remove([])
        assert writer.gallery.snapshot == 3
    assert len(ids(gallery_path)) == 12


def test_a_removed_image_can_come_back(gallery_path: Path, backbone: Backbone) -> None:
    with GalleryWriter(gallery_path) as writer:
        file = writer.gallery.image("005.png")
        writer.remove(["005.png"])
        report = writer.add([image_file("005.png", Path(file.path).read_bytes())], backbone)
        assert report.added == 1
        assert writer.gallery.image("005.png").key > file.key


def test_compact_frees_bytes_and_keeps_scores(
    gallery_path: Path, backbone: Backbone, decoded: Callable[..., list[DecodedImage]]
) -> None:
    with GalleryWriter(gallery_path) as writer:
        writer.remove(["000.png", "006.png", "007.png"])
    before = scores(gallery_path, backbone, decoded())
    on_disk = sum(file.stat().st_size for file in (gallery_path / "shards").iterdir())
    told: list[int] = []
    with GalleryWriter(gallery_path) as writer:
        rows = list(writer.gallery.images())
        expected = writer.images_to_move()
        freed = writer.compact(told.append)
        assert freed > 3 * backbone.settings.map_bytes
        assert sum(told) == expected == 9
        assert len(writer.gallery.catalog.snapshots()) == 1
        snapshot, generation = writer.gallery.snapshot, writer.gallery.catalog.generation()
        assert writer.compact() == 0
        assert (snapshot, generation) == (writer.gallery.snapshot, writer.gallery.catalog.generation())
    for old, new in zip(before, scores(gallery_path, backbone, decoded()), strict=True):
        np.testing.assert_array_equal(old, new)
    assert on_disk - sum(file.stat().st_size for file in (gallery_path / "shards").iterdir()) == freed
    with Gallery(gallery_path) as gallery:
        assert [row.id for row in gallery.images()] == [row.id for row in rows]
        assert list(gallery.verify()) == []
        for row in gallery.images():
            assert gallery.thumbnail(row).startswith(b"\xff\xd8")
    with pytest.raises(InputError):
        Gallery(gallery_path, 3)


def test_level_variances_do_not_depend_on_the_history(tmp_path: Path, image_folder: Folder, backbone: Backbone) -> None:
    files = list(find_images(image_folder(13)))

    def built(name: str, order: list[ImageFile], shard_rows: int, remove: list[str]) -> list[float]:
        with GalleryWriter(tmp_path / name, backbone.settings) as writer:
            writer.shard_rows = shard_rows
            writer.add(order, backbone, batch_size=1)
            if remove:
                writer.remove(remove)
            maps = writer.gallery.maps([row.key for row in writer.gallery.images()])
            variances = writer.gallery.level_variances()
        np.testing.assert_allclose(variances, [level.astype(float).var() for level in maps], rtol=1e-5)
        return variances

    shuffled = random.Random(1).sample(files, len(files))
    expected = built("a", files[:10], 100, [])
    assert built("b", files[:10], 1, []) == expected
    assert built("c", shuffled, 3, [file.id for file in files[10:]]) == expected
    assert built("d", shuffled[::-1], 4, [file.id for file in files[10:]]) == expected
    assert built("e", files, 100, []) != expected


def test_the_index_is_stale_after_a_tenth(gallery_path: Path, backbone: Backbone) -> None:
    with GalleryWriter(gallery_path) as writer:
        assert not writer.index_is_stale()
        writer.remove(["000.png"])
        assert not writer.index_is_stale()
        writer.add([image_file("new.png", png(70))], backbone)
        assert writer.index_is_stale()
        writer.build_index()
        assert not writer.index_is_stale()
        assert len(list((gallery_path / "index").glob("*.faiss"))) == 1
        writer.remove(ids(gallery_path))
        with pytest.raises(InputError, match="nothing to index"):
            writer.build_index()


def test_shards_without_a_catalog_are_never_deleted(gallery_path: Path, backbone: Backbone, tmp_path: Path) -> None:
    path = gallery_path
    (path / "catalog.sqlite").rename(tmp_path / "elsewhere.sqlite")
    before = sorted(file.name for file in (path / "shards").iterdir())
    with pytest.raises(GalleryDamaged, match=r"restore"):
        GalleryWriter(path, backbone.settings)
    assert sorted(file.name for file in (path / "shards").iterdir()) == before != []


def test_an_interrupt_in_the_first_batch_leaves_nothing(
    image_folder: Folder, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(backbone, "_reader", interrupted)
    with GalleryWriter(tmp_path / "gallery", backbone.settings) as writer:
        with pytest.raises(KeyboardInterrupt):
            writer.add(find_images(image_folder(3)), backbone)
        assert len(writer.gallery) == 0
    assert list((tmp_path / "gallery").rglob("*.h5*")) == []


def test_a_rebuilt_index_has_a_new_name(gallery_path: Path) -> None:
    """A reader may be about to open the old file, with the description that it has read."""
    (before,) = (gallery_path / "index").glob("*.faiss")
    with Gallery(gallery_path) as reader:
        with GalleryWriter(gallery_path) as writer:
            writer.build_index()
        assert before in (files := set((gallery_path / "index").glob("*.faiss")))
        assert len(files) == 2
        assert len(reader.nearest(np.zeros((1, 12), np.float32), 5)[0]) == 5
    with GalleryWriter(gallery_path) as writer:
        writer.build_index()
        assert list(writer.gallery.verify()) == []
    assert len(list((gallery_path / "index").glob("*.faiss"))) == 1
