"""Damage to a gallery's shards, its repair, and what a repaired gallery must be."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np

from spade_index.gallery import Gallery
from spade_index.gallery.catalog import check
from spade_index.gallery.store.moments import image_moments
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.settings import SearchSettings

from helpers.tiny import files_of, parts_of

ALL = [f"{number:03d}.png" for number in range(12)]  # in shards of 5, 5 and 2
SEARCH = SearchSettings(gallery_neighbours=3)  # of calibrations


def shard_of(path: Path, id: str) -> Path:
    """Return the file of the shard that an image is in."""
    with Gallery(path) as gallery:
        row = gallery.image(id)
        return path / "shards" / str(gallery.catalog.shard_file(row.shard))


def damage(path: Path, id: str) -> Path:
    """Change one bit of an image's coarsest map, which no search reads; return its shard."""
    shard = shard_of(path, id)
    with Gallery(path) as gallery:
        stored = gallery.maps([gallery.image(id).key])[2].tobytes()
    data = bytearray(shard.read_bytes())
    data[data.index(stored) + 1] ^= 1
    shard.write_bytes(data)
    return shard


def damage_outside(path: Path, id: str) -> Path:
    """Add a byte to a shard, which belongs to no image; return the shard."""
    shard = shard_of(path, id)
    shard.write_bytes(shard.read_bytes() + b"\0")
    return shard


def repaired(path: Path) -> tuple[int, list[str]]:
    """Repair a gallery; return the number of dropped images, and what was said."""
    said: list[str] = []
    with GalleryWriter(path) as writer:
        dropped = writer.repair(say=said.append)
    return dropped, said


def check_usable(path: Path, ids: list[str]) -> None:
    """Check that a gallery holds these images, and is as if there had never been others."""
    with Gallery(path) as gallery:
        assert list(gallery.verify()) == []
        assert [row.id for row in gallery.images()] == ids
        assert len(gallery) == len(ids)
        totals = np.zeros((3, 3), dtype=object)
        for row in gallery.images():
            features = gallery.stored(row)
            totals += np.array([image_moments(values) for values in features.maps], dtype=object)
            (nearest,) = gallery.nearest(features.pooled[None], 1)
            assert nearest[0].id == row.id
        assert gallery.totals.moments == totals.tolist()
        assert gallery.index_info() is not None
    with GalleryWriter(path):
        pass
    assert files_of(path) == parts_of(path)


def without(*ids: str) -> list[str]:
    """Return ALL but these ids."""
    return [id for id in ALL if id not in ids]


def hide(path: Path, id: str) -> Path:
    """Make HDF5 find no map of the first row of a shard; return the shard.

    After 24 bytes of a B-tree comes the row of its first chunk.
    """
    shard = shard_of(path, id)
    data = bytearray(shard.read_bytes())
    data[data.index(b"TREE\x01") + 24 + 8] ^= 8
    shard.write_bytes(data)
    return shard


def damage_removed(path: Path, id: str) -> None:
    """Change one bit of a removed image's finest map."""
    with Gallery(path) as gallery:
        row = next(row for row in gallery.removed_images() if row.id == id)
        shard = path / "shards" / f"{row.shard:06d}.h5"
        stored = gallery.maps([row.key])[0].tobytes()
    data = bytearray(shard.read_bytes())
    data[data.index(stored)] ^= 1
    shard.write_bytes(data)


def change_catalog(path: Path, statement: str, *values: object) -> None:
    """Change the catalog of a gallery, and note its bytes as good."""
    with closing(sqlite3.connect(path / "catalog.sqlite")) as db, db:
        db.execute(statement, values)
    check.write(path / "catalog.sqlite")
