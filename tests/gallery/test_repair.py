"""A repair drops and names damaged images, keeps all others, and leaves a gallery without problems."""

import os
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import pytest

from spade_index.errors import GalleryDamaged, GalleryError, InputError, UnknownImage
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter

from helpers.cli_runs import run
from helpers.damage import ALL, check_usable, damage, damage_outside, damage_removed, hide, repaired, shard_of, without
from helpers.processes import answers_of
from helpers.tiny import files_of


def test_a_gallery_without_damage_is_not_changed(gallery_path: Path) -> None:
    with GalleryWriter(gallery_path):
        pass
    before = {name: (gallery_path / name).read_bytes() for name in files_of(gallery_path) if name != "writer.lock"}
    assert repaired(gallery_path) == (0, [])
    assert {name: (gallery_path / name).read_bytes() for name in before} == before


def test_damaged_images_are_dropped_and_their_neighbours_kept(gallery_path: Path) -> None:
    shard = damage(gallery_path, "001.png")
    damage(gallery_path, "003.png")
    with Gallery(gallery_path) as gallery:
        (line,) = gallery.verify()
        snapshot = gallery.snapshot
    assert f"{shard}: bytes have changed since it was written (images 001.png, 003.png)" == line
    dropped, said = repaired(gallery_path)
    assert dropped == 2
    assert [line for line in said if "dropped" in line] == [
        "dropped 001.png: it is damaged",
        "dropped 003.png: it is damaged",
    ]
    assert not shard.exists()
    check_usable(gallery_path, without("001.png", "003.png"))
    with Gallery(gallery_path) as gallery:
        assert gallery.snapshot == snapshot + 1
        assert gallery.info()["snapshots"][-1]["action"] == "repair"
    with pytest.raises(InputError, match=f"no snapshot {snapshot}"):  # it cannot be shown any more
        Gallery(gallery_path, snapshot)


def test_damage_outside_of_images_costs_nothing(gallery_path: Path) -> None:
    with Gallery(gallery_path) as reader:
        before = answers_of(reader)
        shard = damage_outside(gallery_path, "007.png")
        dropped, said = repaired(gallery_path)
        assert dropped == 0
        assert answers_of(reader) == before
        assert list(reader.verify()) == []
    assert any(str(shard) in line for line in said)
    check_usable(gallery_path, ALL)
    with Gallery(gallery_path) as gallery:
        assert answers_of(gallery) == before
        assert gallery.snapshot == 3


def test_a_shard_whose_settings_are_damaged_costs_no_image(gallery_path: Path) -> None:
    shard = shard_of(gallery_path, "007.png")
    data = bytearray(shard.read_bytes())
    data[data.index(b"input_size") + 3] ^= 1
    shard.write_bytes(data)
    with Gallery(gallery_path) as gallery, pytest.raises(GalleryDamaged, match=f"{shard}.*other settings"):
        gallery.maps([gallery.image("007.png").key])
    assert repaired(gallery_path)[0] == 0
    check_usable(gallery_path, ALL)


def test_a_map_that_only_the_kept_layout_finds_is_not_lost(gallery_path: Path) -> None:
    shard = hide(gallery_path, "005.png")
    with Gallery(gallery_path) as gallery:
        assert gallery.stored(gallery.image("005.png"))
        (problem,) = gallery.verify()
        assert problem.startswith(f"{shard}: bytes have changed")
    assert repaired(gallery_path)[0] == 0
    check_usable(gallery_path, ALL)


def test_a_map_that_cannot_be_found_costs_one_image(gallery_path: Path) -> None:
    with closing(sqlite3.connect(gallery_path / "catalog.sqlite")) as db, db:
        db.execute("DELETE FROM layouts")
    shard = hide(gallery_path, "005.png")
    with Gallery(gallery_path) as gallery, pytest.raises(GalleryDamaged, match=str(shard)):
        gallery.maps([gallery.image("005.png").key])
    dropped, said = repaired(gallery_path)
    assert dropped == 1
    assert "dropped 005.png: it is damaged" in said
    check_usable(gallery_path, without("005.png"))


@pytest.mark.parametrize("pixels", [64, 16, 4])
def test_a_damaged_number_of_rows_costs_no_image(gallery_path: Path, pixels: int) -> None:
    """The places of the rows' maps are known nevertheless."""
    shard = shard_of(gallery_path, "005.png")
    data = bytearray(shard.read_bytes())
    data[data.index(struct.pack("<2Q", 5, pixels))] ^= 0x80  # HDF5's sizes of a dataset, 8 bytes each
    shard.write_bytes(data)
    with h5py.File(shard) as file:
        assert 5 + 0x80 in {len(level) for level in file["maps"].values()}
    assert repaired(gallery_path)[0] == 0
    check_usable(gallery_path, ALL)


@pytest.mark.parametrize("ruin", [os.unlink, lambda path: os.truncate(path, 3000), lambda path: os.truncate(path, 0)])
def test_a_missing_or_truncated_shard(gallery_path: Path, ruin: Callable[[Path], None]) -> None:
    ruin(shard_of(gallery_path, "007.png"))
    dropped, said = repaired(gallery_path)
    assert dropped == 5
    assert sum("dropped" in line for line in said) == 5
    check_usable(gallery_path, without(*ALL[5:10]))
    with Gallery(gallery_path, 1) as gallery:  # which held only the first shard
        assert len(gallery) == len(list(gallery.images())) == 5


def test_all_shards_are_missing(gallery_path: Path) -> None:
    for shard in (gallery_path / "shards").iterdir():
        shard.unlink()
    assert repaired(gallery_path)[0] == 12
    with Gallery(gallery_path) as gallery:
        assert len(gallery) == 0
        assert list(gallery.verify()) == []


@pytest.mark.parametrize("ruin", [os.unlink, lambda path: os.truncate(path, 50)])
@pytest.mark.parametrize("suffix", [".faiss", ".h5"])
def test_an_index_is_built_again(gallery_path: Path, ruin: Callable[[Path], None], suffix: str) -> None:
    (file,) = (gallery_path / "index").glob(f"*{suffix}")
    ruin(file)
    dropped, said = repaired(gallery_path)
    assert dropped == 0
    assert "index" in said[0]
    check_usable(gallery_path, ALL)


def test_damaged_removed_images_are_dropped(gallery_path: Path) -> None:
    damage(gallery_path, "006.png")
    with GalleryWriter(gallery_path) as writer, pytest.raises(GalleryDamaged, match="--repair"):
        writer.remove(["006.png"])
    with GalleryWriter(gallery_path) as writer:
        writer.remove(["005.png", "008.png"])
    damage_removed(gallery_path, "005.png")
    dropped, said = repaired(gallery_path)
    assert dropped == 1
    assert "dropped the removed 005.png: it is damaged" in said
    check_usable(gallery_path, without("005.png", "006.png", "008.png"))
    with GalleryWriter(gallery_path) as writer:
        with pytest.raises(UnknownImage):
            writer.restore(["005.png"])
        writer.restore(["008.png"])
        assert list(writer.gallery.verify()) == []


def test_an_image_that_was_restored_is_one_image(gallery_path: Path) -> None:
    with GalleryWriter(gallery_path) as writer:
        writer.remove(["006.png", "007.png"])
        writer.restore(["006.png", "007.png"])
    damage(gallery_path, "006.png")
    dropped, _ = repaired(gallery_path)
    assert dropped == 1
    with Gallery(gallery_path) as gallery:
        assert list(gallery.verify()) == []
        assert {row.id for row in gallery.images()} == set(without("006.png"))


def test_a_reader_of_dropped_images_gets_an_error(gallery_path: Path) -> None:
    with Gallery(gallery_path) as reader, Gallery(gallery_path, 1) as early:
        before = answers_of(early)
        damage(gallery_path, "008.png")
        assert repaired(gallery_path)[0] == 1
        with pytest.raises(GalleryError, match="open it again"):
            reader.nearest(np.zeros((1, 12), np.float32), 3)
        assert answers_of(early) == before
        with Gallery(gallery_path) as again:
            assert list(again.verify()) == []
    check_usable(gallery_path, without("008.png"))


def test_a_damaged_catalog_is_left_alone(gallery_path: Path) -> None:
    with GalleryWriter(gallery_path):
        pass
    path = gallery_path / "catalog.sqlite"
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    with pytest.raises(GalleryDamaged, match="restore it from a copy, or move the gallery away and build it again"):
        repaired(gallery_path)
    assert path.read_bytes() == data


def test_progress_counts_all_bytes(gallery_path: Path) -> None:
    told: list[int] = []
    with Gallery(gallery_path) as gallery:
        assert list(gallery.problems(told.append)) == []
    files = [*(gallery_path / "shards").iterdir(), *(gallery_path / "index").iterdir()]
    assert sum(told) == sum(file.stat().st_size for file in files)


def test_the_command_names_what_it_drops_and_succeeds(gallery_path: Path) -> None:
    damage(gallery_path, "001.png")
    assert "--repair" in run("verify", gallery_path, status=1).stderr
    done = run("verify", gallery_path, "--repair")
    assert "dropped 001.png: it is damaged" in done.stderr.splitlines()
    assert done.stdout == f"{gallery_path}: 1 image dropped; 11 images at snapshot 4, no problems\n"
    assert run("verify", gallery_path).stdout == f"{gallery_path}: 11 images at snapshot 4, no problems\n"
    assert run("verify", gallery_path, "--repair").stdout.endswith("gallery: 11 images at snapshot 4, no problems\n")
