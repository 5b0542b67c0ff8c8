"""A transcoding that is killed at any instant leaves whole images; the same command goes on, to the same answers."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spade_index.gallery import Gallery
from spade_index.gallery.catalog.transaction import Transaction
from spade_index.gallery.changes import changes_since_tuning
from spade_index.gallery.store.shard_writer import ShardWriter
from spade_index.gallery.write import reindex, train, transcode
from spade_index.gallery.write.session import Session
from spade_index.gallery.write.writer import GalleryWriter

from durability.builds import IMAGES, ROWS, SEARCH, answers, committed
from helpers.calls import Target, die_at
from helpers.processes import forked, killed
from helpers.tiny import files_of, parts_of

Levels = tuple[int, ...] | None
KEPT = (1, 2)


def compact(path: Path, codec: str | None = "int4", levels: Levels = None) -> None:
    with GalleryWriter(path) as writer:
        writer.shard_rows = ROWS
        writer.compact(maps=codec, levels=levels)


def without_keys(path: Path, levels: Levels) -> list[Any]:
    """Return the ids, and what queries find, but for keys and places."""
    rows, found = answers(path, replace(SEARCH, compared_levels=levels))
    near = [[(n.id, n.distance) for n in neighbours] for _, neighbours, _ in found]
    return [[row[1] for row in rows], near, [(scores, maps) for scores, _, maps in found]]


INSTANTS: list[tuple[Target, int, bool]] = [
    ((Transaction, "set_storage"), 1, False),
    ((Transaction, "delete_calibrations"), 1, False),
    ((Gallery, "at"), 3, True),
    ((Gallery, "at"), 4, True),
    ((ShardWriter, "append"), 2, False),
    ((ShardWriter, "commit"), 1, False),
    ((ShardWriter, "commit"), 3, False),
    ((Transaction, "remove_images"), 2, False),
    ((Transaction, "add_images"), 2, False),
    ((transcode, "_commit"), 2, False),
    ((Session, "delete_unused"), 4, False),
    ((Session, "delete_unused"), 5, False),
    ((Transaction, "forget_before"), 2, False),
    ((Transaction, "delete_meta"), 1, True),
    ((Transaction, "delete_meta"), 1, False),
    ((reindex, "build_index"), 1, False),
]


def tuned(path: Path, whole: Path, levels: Levels) -> None:
    """Make a copy of a gallery that was tuned to compare these levels before the last two images were added."""
    shutil.copytree(whole, path)
    with GalleryWriter(path) as writer:
        search = {} if levels is None else {"compared_levels": list(levels)}
        writer.set_tuned({"search": search, "images": IMAGES - 2, "snapshot": writer.gallery.snapshot})


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, whole: Path) -> dict[Levels, list[Any]]:
    """What a gallery answers after a transcoding that was not killed, by the levels that it keeps."""
    found: dict[Levels, list[Any]] = {}
    for levels in (None, KEPT):
        path = tmp_path_factory.mktemp("uninterrupted") / "gallery"
        tuned(path, whole, levels)
        compact(path, levels=levels)
        found[levels] = without_keys(path, levels)
    return found


@pytest.mark.parametrize(("target", "call", "before"), INSTANTS)
@pytest.mark.parametrize(("again", "levels"), [("int4", None), (None, None), (None, KEPT)])
def test_killed_while_transcoding(
    tmp_path: Path,
    whole: Path,
    uninterrupted: dict[Levels, list[Any]],
    target: Target,
    call: int,
    before: bool,
    again: str | None,
    levels: Levels,
) -> None:
    path = tmp_path / "gallery"
    tuned(path, whole, levels)

    def run() -> None:
        die_at(target, call, before)
        compact(path, levels=levels)

    assert killed(forked(run))
    assert committed(path) == IMAGES
    with Gallery(path) as gallery:
        begun = gallery.codec == "int4"
    compact(path, again)
    compact(path, "int4", levels)
    assert begun or target[1] in ("set_storage", "delete_calibrations", "at")
    assert committed(path) == IMAGES
    assert without_keys(path, levels) == uninterrupted[levels]
    with GalleryWriter(path):
        pass
    assert files_of(path) == parts_of(path)
    with Gallery(path) as gallery:
        assert changes_since_tuning(gallery) == 2


TRAINED = [
    ((train, "tables_of"), 2, False),
    ((Transaction, "set_storage"), 1, False),
    ((Transaction, "delete_calibrations"), 1, False),
    ((ShardWriter, "append"), 2, False),
    ((ShardWriter, "commit"), 3, False),
    ((Transaction, "add_images"), 2, False),
    ((Session, "delete_unused"), 4, False),
    ((Transaction, "delete_meta"), 1, False),
    ((reindex, "build_index"), 1, False),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, whole: Path) -> list[Any]:
    """What a gallery answers whose maps were stored by tables, without an interruption."""
    path = tmp_path_factory.mktemp("trained") / "gallery"
    tuned(path, whole, KEPT)
    compact(path, "pq", KEPT)
    return without_keys(path, KEPT)


@pytest.mark.parametrize(("target", "call", "before"), TRAINED)
def test_killed_while_storing_by_tables(
    tmp_path: Path, whole: Path, trained: list[Any], target: Target, call: int, before: bool
) -> None:
    path = tmp_path / "gallery"
    tuned(path, whole, KEPT)

    def run() -> None:
        die_at(target, call, before)
        compact(path, "pq", KEPT)

    assert killed(forked(run))
    assert committed(path) == IMAGES
    with Gallery(path) as gallery:
        name = gallery.storage.name if gallery.codec == "pq" else None
    compact(path, None)  # goes on, if it had begun
    compact(path, "pq", KEPT)
    assert committed(path) == IMAGES
    assert without_keys(path, KEPT) == trained
    with Gallery(path) as gallery:
        assert name in (None, gallery.storage.name)
    with GalleryWriter(path):
        pass
    assert files_of(path) == parts_of(path)
