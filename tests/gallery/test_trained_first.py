"""Galleries that are built with maps as `pq`: their tables are trained on a sample of the images first."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from spade_index.errors import InputError, SettingsMismatch
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.store.quantizer import Quantized
from spade_index.gallery.write import train
from spade_index.gallery.write.train import trained_on
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import find_images

from helpers.cli_runs import BACKBONE, refused, run, write_normal
from helpers.clusters import tiled_backbone
from helpers.tiny import write_images

ENOUGH = 20


def built(path: Path, images: Path, backbone: Backbone, maps: str | Quantized | None) -> dict[str, list[bytes]]:
    """Build a gallery, and return what it stores of each image's maps."""
    with GalleryWriter(path, backbone.settings, maps=maps) as writer:
        writer.add(find_images(images), backbone)
    return codes(path)


def codes(path: Path) -> dict[str, list[bytes]]:
    with Gallery(path) as gallery:
        assert list(gallery.verify()) == []
        return {row.id: [level.tobytes() for level in gallery.stored(row).maps] for row in gallery.images()}


def tables_in(path: Path) -> list[str]:
    with closing(sqlite3.connect(path / "catalog.sqlite")) as db:
        known = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'quantizers'").fetchall()
        return [name for (name,) in db.execute("SELECT name FROM quantizers")] if known else []


def test_it_stores_what_a_gallery_stores_that_is_compacted_later(tmp_path: Path, backbone: Backbone) -> None:
    images = write_images(tmp_path / "images", ENOUGH)
    first = built(tmp_path / "first", images, backbone, trained_on(find_images(images), backbone))
    built(tmp_path / "later", images, backbone, "float16")
    with GalleryWriter(tmp_path / "later") as writer:
        writer.compact(maps="pq")
    assert first == codes(tmp_path / "later")
    facts = []
    for name in ("first", "later"):
        with Gallery(tmp_path / name) as gallery:
            facts.append({of: gallery.info()[of] for of in ("maps", "format_version", "stored_levels", "transcoding")})
    assert facts[0] == facts[1] == {"maps": "pq", "format_version": 4, "stored_levels": [0, 1, 2], "transcoding": False}


def test_a_sample_trains_the_same_tables_each_time(
    tmp_path: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write_images(tmp_path / "images", ENOUGH + 10)
    every = trained_on(find_images(images), backbone)
    monkeypatch.setattr(train, "SAMPLE", ENOUGH)
    some = trained_on(find_images(images), backbone)
    assert some == trained_on(find_images(images), backbone) != every
    assert len(built(tmp_path / "gallery", images, backbone, some)) == ENOUGH + 10


def test_images_that_cannot_be_decoded_are_no_part_of_the_sample(tmp_path: Path, backbone: Backbone) -> None:
    images = write_images(tmp_path / "images", ENOUGH)
    (images / "005.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"at least 20 images, and of these 19 can be: build with --maps int8, and"):
        trained_on(find_images(images), backbone)
    write_images(images, ENOUGH + 1)
    (images / "005.png").write_bytes(b"not an image")
    stored = built(tmp_path / "gallery", images, backbone, trained_on(find_images(images), backbone))
    assert len(stored) == ENOUGH


def test_tiles_of_a_few_pictures_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiled_backbone()
    images = write_images(tmp_path / "images", 4, size=(90, 70))
    seen: list[int] = []
    add = train._Sample.add
    monkeypatch.setattr(train._Sample, "add", lambda sample, maps: seen.append(1) or add(sample, maps))
    monkeypatch.setattr(train, "SAMPLE", 40)
    codec = trained_on(find_images(images), backbone)
    assert ENOUGH <= len(seen) <= 40
    assert len(built(tmp_path / "gallery", images, backbone, codec)) > len(seen)


def test_a_new_gallery_needs_tables_and_one_that_has_them_does_not(tmp_path: Path, backbone: Backbone) -> None:
    images = write_images(tmp_path / "images", ENOUGH)
    with pytest.raises(InputError, match=r"gallery: a new gallery stores maps as pq by tables: give what `trained_on`"):
        GalleryWriter(tmp_path / "gallery", backbone.settings, maps="pq")
    assert not (tmp_path / "gallery").exists()
    stored = built(tmp_path / "gallery", images, backbone, trained_on(find_images(images), backbone))
    assert built(tmp_path / "gallery", images, backbone, "pq") == stored
    assert built(tmp_path / "gallery", images, backbone, None) == stored
    with pytest.raises(SettingsMismatch, match="stores maps as pq, not int8"):
        built(tmp_path / "gallery", images, backbone, "int8")


def test_a_build_that_failed_binds_nobody_to_its_tables(tmp_path: Path, backbone: Backbone) -> None:
    images, others = write_images(tmp_path / "images", ENOUGH), write_images(tmp_path / "others", ENOUGH, seed=5)
    path, codec = tmp_path / "gallery", trained_on(find_images(images), backbone)
    with GalleryWriter(path, backbone.settings, maps=trained_on(find_images(others), backbone)):
        assert tables_in(path) != [codec.name]
    built(path, images, backbone, codec)
    assert tables_in(path) == [codec.name]
    with GalleryWriter(tmp_path / "plain", backbone.settings, maps=codec):
        pass
    built(tmp_path / "plain", images, backbone, None)
    assert tables_in(tmp_path / "plain") == []
    with Gallery(tmp_path / "plain") as gallery:
        assert (gallery.codec, gallery.info()["format_version"]) == ("int8", 2)


def test_images_are_added_by_the_tables_that_were_trained_first(
    tmp_path: Path, backbone: Backbone, image_folder: Callable[..., Path]
) -> None:
    images = write_images(tmp_path / "images", ENOUGH)
    before = built(tmp_path / "gallery", images, backbone, trained_on(find_images(images), backbone))
    after = built(tmp_path / "gallery", image_folder(4, seed=8, name="more"), backbone, None)
    assert after == before  # other contents under the same names are kept as they were
    with GalleryWriter(tmp_path / "gallery") as writer:
        name = writer.gallery.storage.name
        writer.add(find_images(image_folder(4, seed=9, name="new"), "new/"), backbone)
        assert {writer.gallery.storage_of(row.shard).name for row in writer.gallery.images()} == {name}
    assert len(codes(tmp_path / "gallery")) == ENOUGH + 4


def test_from_the_command_line(tmp_path: Path) -> None:
    images, gallery = write_normal(tmp_path / "images", ENOUGH - 1), tmp_path / "gallery"
    line = refused("build", images, gallery, *BACKBONE, "--maps", "pq")
    assert "at least 20 images, and of these 19 can be: build with --maps int8, and `spade-index compact" in line
    assert not gallery.exists()
    write_normal(images, ENOUGH)
    for _ in range(2):
        run("build", images, gallery, *BACKBONE, "--maps", "pq", "--no-tune")
    assert json.loads(run("info", gallery, "--json").stdout)["maps"] == "pq"
    assert "pq, " in run("info", gallery).output
    assert "no problems" in run("verify", gallery).output
    run("add", gallery, write_normal(tmp_path / "more", 2, start=50), "--prefix", "more/")
    assert "22 images" in run("build", images, gallery, *BACKBONE, "--no-tune").output
    assert "not int4" in refused("build", images, gallery, *BACKBONE, "--maps", "int4", "--no-tune")
