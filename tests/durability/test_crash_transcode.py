"""A transcoding that is killed at any instant leaves whole images; the same command goes on, to the same answers."""

from pathlib import Path
from typing import Any

import pytest

from spade_index.gallery import Gallery
from spade_index.gallery.catalog.transaction import Transaction
from spade_index.gallery.changes import changes_since_tuning
from spade_index.gallery.store.shard_writer import ShardWriter
from spade_index.gallery.write import reindex, transcode
from spade_index.gallery.write.session import Session
from spade_index.gallery.write.writer import GalleryWriter

from durability.builds import IMAGES, ROWS, answers, carry_on, committed
from helpers.calls import Target, die_at
from helpers.processes import forked, killed
from helpers.tiny import files_of, parts_of


def compact(path: Path, codec: str | None = "int4") -> None:
    with GalleryWriter(path) as writer:
        writer.shard_rows = ROWS
        writer.compact(maps=codec)


def without_keys(path: Path) -> list[Any]:
    """Return the ids, and what queries find, but for keys and places."""
    rows, found = answers(path)
    near = [[(n.id, n.distance) for n in neighbours] for _, neighbours, _ in found]
    return [[row[1] for row in rows], near, [(scores, maps) for scores, _, maps in found]]


INSTANTS: list[tuple[Target, int, bool]] = [
    ((Transaction, "set_codec"), 1, False),
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


@pytest.mark.parametrize(("target", "call", "before"), INSTANTS)
@pytest.mark.parametrize("again", ["int4", None])
def test_killed_while_transcoding(
    tmp_path: Path, images: Path, target: Target, call: int, before: bool, again: str | None
) -> None:
    path, whole = tmp_path / "gallery", tmp_path / "whole"
    carry_on(path, images)
    with GalleryWriter(path) as writer:
        writer.set_tuned({"search": {}, "images": IMAGES - 2, "snapshot": writer.gallery.snapshot})
    carry_on(whole, images)
    compact(whole)

    def run() -> None:
        die_at(target, call, before)
        compact(path)

    assert killed(forked(run))
    assert committed(path) == IMAGES
    with Gallery(path) as gallery:
        begun = gallery.codec == "int4"
    compact(path, again)
    compact(path, "int4")
    assert begun or target[1] in ("set_codec", "delete_calibrations", "at")
    assert committed(path) == IMAGES
    assert without_keys(path) == without_keys(whole)
    with GalleryWriter(path):
        pass
    assert files_of(path) == parts_of(path)
    with Gallery(path) as gallery:
        assert changes_since_tuning(gallery) == 2
