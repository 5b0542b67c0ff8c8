"""A build with maps as `pq` that is killed before or after its tables are there is carried on by the same command."""

from pathlib import Path
from typing import Any

import pytest

from spade_index.gallery.catalog import schema
from spade_index.gallery.catalog.transaction import Transaction
from spade_index.gallery.store.shard_writer import ShardWriter
from spade_index.gallery.write import opening, train
from spade_index.gallery.write.train import trained_on
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import find_images

from durability.builds import BACKBONE, IMAGES, ROWS, committed
from helpers.calls import Target, die_at
from helpers.clusters import require_same
from helpers.decoding_here import HERE
from helpers.processes import forked, killed
from helpers.tiny import write_images


def build(path: Path, images: Path) -> None:
    """Do what `build --maps pq` does: train, unless the gallery holds images, and add."""
    begun = (path / "catalog.sqlite").exists() and committed(path)
    maps: Any = "pq" if begun else trained_on(find_images(images), BACKBONE)
    with GalleryWriter(path, BACKBONE.settings, maps=maps) as writer:
        writer.shard_rows = ROWS
        writer.add(find_images(images), BACKBONE, batch_size=ROWS, decoders=HERE)
        writer.build_index()


INSTANTS: list[tuple[Target, int, bool]] = [
    ((train, "tables_of"), 2, False),
    ((Transaction, "set_storage"), 1, False),
    ((schema, "make_durable"), 1, True),
    ((schema, "make_durable"), 1, False),
    ((opening, "settle_shards"), 1, True),
    ((ShardWriter, "append"), 2, False),
    ((ShardWriter, "commit"), 1, False),
    ((Transaction, "add_images"), 1, False),
    ((ShardWriter, "commit"), 3, True),
]


@pytest.fixture(scope="module")
def whole_pq(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Images, and a gallery of them that was built without an interruption."""
    folder = tmp_path_factory.mktemp("whole")
    images = write_images(folder / "images", IMAGES)
    build(folder / "gallery", images)
    return images, folder / "gallery"


@pytest.mark.parametrize(("target", "call", "before"), INSTANTS)
def test_killed_while_building_by_tables(
    tmp_path: Path, whole_pq: tuple[Path, Path], target: Target, call: int, before: bool
) -> None:
    images, whole = whole_pq
    path = tmp_path / "gallery"

    def run() -> None:
        die_at(target, call, before)
        build(path, images)

    assert killed(forked(run))
    build(path, images)
    assert committed(path) == IMAGES
    require_same(path, whole)
