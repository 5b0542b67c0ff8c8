"""Images whose features were computed elsewhere are stored as `add` stores them, or refused by name."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spade_index.errors import InputError, StorageError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.store.record import NewImage, StoredImage
from spade_index.gallery.write.session import Session
from spade_index.gallery.write.writer import GalleryWriter

from helpers.tiny import build, files_of, parts_of, random_images


def ids(path: Path) -> list[str]:
    with Gallery(path) as gallery:
        assert list(gallery.verify()) == []
        return [row.id for row in gallery.images()]


def test_it_writes_what_add_writes(tmp_path: Path, backbone: Backbone, image_folder: Callable[..., Path]) -> None:
    build(tmp_path / "added", image_folder(7), backbone, shard_rows=3, index=False)
    with (
        Gallery(tmp_path / "added") as gallery,
        GalleryWriter(tmp_path / "again", backbone.settings, maps="float16") as writer,
    ):
        writer.shard_rows = 3
        told: list[int] = []
        images = (NewImage(row, gallery.stored(row)) for row in gallery.images())
        assert writer.add_features(images, told.append) == sum(told) == 7
        assert list(writer.gallery.images()) == list(gallery.images())
        assert writer.gallery.totals == gallery.totals
        assert [row.action for row in writer.gallery.catalog.snapshots()] == ["create", *["add"] * 3]
        for name in ("000001.h5", "000002.h5", "000003.h5"):
            assert (writer.path / "shards" / name).read_bytes() == (gallery.path / "shards" / name).read_bytes()


def changed(image: NewImage, **fields: object) -> NewImage:
    return replace(image, stored=replace(image.stored, **fields))


def wrong_images(image: NewImage) -> Iterator[tuple[NewImage, str]]:
    stored: StoredImage = image.stored
    fine, *coarser = stored.maps
    nan = stored.pooled.copy()
    nan[3] = np.nan
    yield changed(image, pooled=stored.pooled[:-1]), r"pooled descriptor is float32 \[11\], not float32 \[12\]"
    yield changed(image, pooled=stored.pooled.astype(float)), r"pooled descriptor is float64 \[12\]"
    yield changed(image, pooled=nan), "pooled descriptor has values that are not finite"
    yield changed(image, maps=[fine]), "maps of 1 levels, not 3"
    yield changed(image, maps=[fine.T, *coarser]), r"map of level 0 is float16 \[6, 64\], not float16 \[64, 6\]"
    yield changed(image, maps=[fine.astype(np.float32), *coarser]), "map of level 0 is float32"
    yield changed(image, maps=[fine, *coarser[:-1], coarser[-1] * np.float16(np.inf)]), "map of level 2 .* not finite"


@pytest.mark.parametrize("number", range(7))
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, backbone: Backbone, number: int) -> None:
    (image,) = random_images(backbone.settings, 1)
    wrong, message = list(wrong_images(image))[number]
    with GalleryWriter(tmp_path / "gallery", backbone.settings) as writer:
        with pytest.raises(InputError, match=f"{image.origin.id}.*{message}"):
            writer.add_features([wrong])
        assert len(writer.gallery) == 0
    assert files_of(tmp_path / "gallery") == parts_of(tmp_path / "gallery")


def test_an_id_is_added_once(tmp_path: Path, backbone: Backbone) -> None:
    first, second, third = random_images(backbone.settings, 3)
    with GalleryWriter(tmp_path / "gallery", backbone.settings) as writer:
        assert writer.add_features([first, second]) == 2
        for images in ([third, first], [third, third]):
            with pytest.raises(InputError, match=f"already.*{images[1].origin.id}|{images[1].origin.id}.*already"):
                writer.add_features(images)
        assert writer.add_features([]) == 0
    assert ids(tmp_path / "gallery") == [first.origin.id, second.origin.id]


@pytest.mark.parametrize("kind", [InputError, KeyboardInterrupt, RuntimeError])
def test_an_error_keeps_what_was_committed(tmp_path: Path, backbone: Backbone, kind: type[BaseException]) -> None:
    images = random_images(backbone.settings, 150)

    def failing() -> Iterator[NewImage]:
        yield from images[:140]
        raise kind

    with GalleryWriter(tmp_path / "gallery", backbone.settings) as writer:
        writer.shard_rows = 50
        with pytest.raises(kind):
            writer.add_features(failing())
    there = len(ids(tmp_path / "gallery"))
    assert there in ([0, 50, 100] if kind is RuntimeError else [128, 140])
    assert files_of(tmp_path / "gallery") == parts_of(tmp_path / "gallery")


def test_it_stops_before_the_disk_is_full(tmp_path: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(session: Session, images: int) -> None:
        raise StorageError("the disk is full")

    with GalleryWriter(tmp_path / "gallery", backbone.settings) as writer:
        monkeypatch.setattr(Session, "require_room", full)
        with pytest.raises(StorageError, match="full"):
            writer.add_features(random_images(backbone.settings, 2))
        assert len(writer.gallery) == 0
    assert list((tmp_path / "gallery").rglob("*.h5*")) == []
