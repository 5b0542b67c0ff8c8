"""A writer that is killed leaves tiles of one version of each picture, and the next call completes them."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from spade_index.gallery import Gallery
from spade_index.gallery.catalog.transaction import Transaction
from spade_index.gallery.store.shard_writer import ShardWriter
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images.files import ImageFile
from spade_index.images.tiles import picture_of

from helpers.calls import Target, die_at
from helpers.decoding_here import HERE
from helpers.processes import forked, killed
from helpers.tiled import picture, tiled_settings
from helpers.tiny import tiny_backbone

BACKBONE = tiny_backbone()
Whole = tuple[Path, dict[str, Any], dict[str, Any]]
ROWS = 4  # of a shard: fewer than a picture has tiles
FIRST = [picture("a", 0), picture("b", 1, seed=1), picture("c", 3, seed=2)]
CHANGED = [picture("a", 1), picture("b", 2, seed=1), picture("c", 3, seed=2)]
INSTANTS: list[tuple[Target, int, bool]] = [
    ((Transaction, "remove_images"), 2, True),
    ((Transaction, "add_images"), 1, False),
    ((Transaction, "add_images"), 2, True),
    ((Transaction, "add_images"), 3, False),
    ((Gallery, "at"), 3, True),  # committed, the reader not moved
    ((Gallery, "at"), 4, True),
    ((ShardWriter, "commit"), 2, False),
    ((os, "rename"), 3, False),
]


def add(path: Path, files: list[ImageFile], *, replace: bool = False) -> str:
    with GalleryWriter(path, tiled_settings()) as writer:
        writer.shard_rows = ROWS
        return str(writer.add(files, BACKBONE, replace=replace, batch_size=2, decoders=HERE))


def contents(path: Path) -> dict[str, list[tuple[str, bytes, bytes]]]:
    """Return ids, digests and maps of the tiles of each picture, all of them checked."""
    found: dict[str, list[tuple[str, bytes, bytes]]] = {}
    with Gallery(path) as gallery:
        assert list(gallery.verify()) == []
        for row in gallery.images():
            maps = b"".join(level.tobytes() for level in gallery.maps([row.key]))
            found.setdefault(picture_of(row.id), []).append((row.id, row.digest, maps))
    return {id: sorted(of) for id, of in found.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A gallery of the first pictures, what it holds, and what one of the changed pictures holds."""
    first, changed = (tmp_path_factory.mktemp("whole") / "gallery" for _ in range(2))
    add(first, FIRST)
    add(changed, CHANGED)
    return first, contents(first), contents(changed)


@pytest.mark.parametrize(("target", "call", "before"), INSTANTS)
def test_killed_while_pictures_are_added(tmp_path: Path, whole: Whole, target: Target, call: int, before: bool) -> None:
    path = tmp_path / "gallery"

    def run() -> None:
        die_at(target, call, before)
        add(path, FIRST)

    assert killed(forked(run))
    add(path, FIRST)
    assert contents(path) == whole[1]
    assert add(path, FIRST) == "0 added, 3 already there"


@pytest.mark.parametrize(("target", "call", "before"), INSTANTS)
@pytest.mark.parametrize("again", [False, True])
def test_killed_while_pictures_are_replaced(
    tmp_path: Path,
    whole: Whole,
    target: Target,
    call: int,
    before: bool,
    again: bool,
) -> None:
    first, old, new = whole
    path = shutil.copytree(first, tmp_path / "gallery")

    def run() -> None:
        die_at(target, call, before)
        add(path, CHANGED, replace=True)

    assert killed(forked(run))
    left = contents(path)
    for id, there in left.items():
        assert there == old[id] or {*there} <= {*new[id]}
    add(path, CHANGED, replace=again)  # it completes what was begun, and replaces others if it is told to
    begun = {id for id in left if left[id] != old[id]}
    assert contents(path) == {id: (new if again or id in begun else old)[id] for id in new}
