"""Shards of many small adds are merged while images are added, and nothing changes for readers."""

import os
from pathlib import Path

import numpy as np
import pytest

from spade_index.cli import adding
from spade_index.errors import GalleryDamaged, StorageError
from spade_index.gallery import Gallery
from spade_index.gallery.catalog.transaction import Transaction
from spade_index.gallery.store.shard_writer import ShardWriter
from spade_index.gallery.write import gather as gather_module
from spade_index.gallery.write.session import Session
from spade_index.gallery.write.writer import GalleryWriter

from helpers.calls import Target, die_at
from helpers.cli_runs import BACKBONE, run, write_normal
from helpers.damage import damage
from helpers.processes import answers_of, forked, killed, open_few_files
from helpers.tiny import files_of, new_image, parts_of, random_images, tiny_backbone

SETTINGS = tiny_backbone().settings
MAPS = random_images(SETTINGS, 1)[0].stored.maps


def add(path: Path, number: int, rows: int | None = None) -> None:
    """Add an image by itself."""
    pooled = np.random.default_rng(number).normal(size=12).astype(np.float32)
    with GalleryWriter(path, SETTINGS, maps="float16") as writer:
        writer.shard_rows = rows or writer.shard_rows
        writer.add_features([new_image(f"{number:03d}.png", pooled, MAPS)])


def shards_of(path: Path) -> list[int]:
    """Return the number of rows of each shard."""
    with Gallery(path) as gallery:
        return [shard.rows for shard in gallery.catalog.shards().values()]


@pytest.fixture
def few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Merge as soon as there are four."""
    monkeypatch.setattr(gather_module, "ALIKE", 4)


def test_many_single_adds_leave_few_shards_and_open_with_few_files(tmp_path: Path) -> None:
    path = tmp_path / "gallery"
    for number in range(150):
        add(path, number, rows=40)
        assert len(os.listdir(path / "shards")) < 4 + 3 + 2 * gather_module.ALIKE
    assert sorted(shards_of(path))[-3:] > [20, 20, 20]
    assert files_of(path) == parts_of(path)

    def opened() -> None:
        open_few_files(64)
        with Gallery(path) as gallery:
            assert list(gallery.verify()) == []
            assert [row.id for row in gallery.images()] == [f"{number:03d}.png" for number in range(150)]
            for row in gallery.images():
                assert gallery.nearest(gallery.pooled([row]), 1)[0][0].id == row.id

    _, status = os.waitpid(forked(opened), 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_readers_earlier_snapshots_and_removed_images_stay(tmp_path: Path, few_at_a_time: None) -> None:
    path = tmp_path / "gallery"
    for number in range(3):
        add(path, number)
    with GalleryWriter(path) as writer:
        writer.remove(["001.png"])
        writer.remove(["002.png"])
        writer.restore(["002.png"])
    with Gallery(path) as reader, Gallery(path, 3) as earlier:
        held = answers_of(reader), answers_of(earlier)
        for number in range(3, 40):
            add(path, number)
        assert (answers_of(reader), answers_of(earlier)) == held
    add(path, 40)
    assert len(shards_of(path)) < 12
    with Gallery(path, 3) as earlier:
        assert answers_of(earlier) == held[1]
    with GalleryWriter(path) as writer:
        writer.restore(["001.png"])
        assert writer.gallery.catalog.removed_count() == 0
    with Gallery(path) as gallery:
        assert len(gallery) == 41
        assert list(gallery.verify()) == []
    assert files_of(path) == parts_of(path)


def test_each_image_moves_a_few_times_at_most(
    tmp_path: Path, few_at_a_time: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    append = ShardWriter.append
    monkeypatch.setattr(ShardWriter, "append", lambda *given: (rows.append(1), append(*given)))
    for number in range(60):
        add(tmp_path / "gallery", number, rows=30)
    assert len(rows) < 60 * 4


KILLS: list[tuple[Target, int, bool]] = [
    ((ShardWriter, "append"), 3, False),
    ((ShardWriter, "commit"), 2, False),
    ((Transaction, "move_images"), 1, True),
    ((Transaction, "move_images"), 1, False),
    ((Session, "delete_unused"), 2, True),
    ((Transaction, "forget_before"), 1, False),
    ((Path, "unlink"), 3, True),
]


@pytest.mark.parametrize(("target", "call", "before"), KILLS)
def test_killed_while_merging(tmp_path: Path, few_at_a_time: None, target: Target, call: int, before: bool) -> None:
    path = tmp_path / "gallery"
    for number in range(3):
        add(path, number)
    assert shards_of(path) == [1, 1, 1]

    def run() -> None:
        die_at(target, call, before)
        add(path, 3)

    assert killed(forked(run))
    for number in range(4, 9):
        with Gallery(path) as gallery:
            assert list(gallery.verify()) == []
            assert len(gallery) == number
        add(path, number)
    assert files_of(path) == parts_of(path)


@pytest.mark.parametrize("fault", [GalleryDamaged("x"), StorageError("x"), OSError("x")])
def test_what_prevents_merging_prevents_no_add(
    tmp_path: Path, few_at_a_time: None, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def fail(*given: object) -> None:
        raise fault

    path = tmp_path / "gallery"
    with monkeypatch.context() as patch:
        patch.setattr(gather_module, "move_images", fail)
        for number in range(6):
            add(path, number)
    assert shards_of(path) == [1] * 6
    add(path, 6)
    assert shards_of(path) == [7]


def test_a_damaged_shard_stays_out(tmp_path: Path, few_at_a_time: None) -> None:
    path = tmp_path / "gallery"
    for number in range(3):
        add(path, number)
    damage(path, "001.png")
    for number in range(3, 9):
        add(path, number)
    with Gallery(path) as gallery:
        assert len(gallery) == 9
        (line,) = gallery.verify()
        assert "001.png" in line
    assert len(shards_of(path)) < 6


def test_add_says_that_there_are_many_small_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write_normal(tmp_path / "images", 4)
    path = tmp_path / "gallery"
    run("build", images / "000.png", path, *BACKBONE, "--no-tune")
    monkeypatch.setattr(adding, "MANY_SHARDS", 3)
    for number in (1, 2):
        said = run("add", path, images / f"{number:03d}.png", *BACKBONE[4:]).stderr
        assert (f"3 small shards: `spade-index compact {path}` merges them" in said) == (number == 2), said
    run("compact", path)
    assert shards_of(path) == [3]
    with GalleryWriter(path) as writer:
        assert writer.small_shards() == 1
