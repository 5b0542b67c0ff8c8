"""The contract of everything that stores images row by row: shards, however they came to be, and galleries of them."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np
import pytest

from spade_index.errors import GalleryDamaged
from spade_index.gallery import Gallery
from spade_index.gallery.index.descriptors import Descriptors, write_descriptors
from spade_index.gallery.store.layout import ShardLayout
from spade_index.gallery.store.record import NewImage, StoredImage
from spade_index.gallery.store.shard import Shard
from spade_index.gallery.store.shard_writer import ShardWriter
from spade_index.gallery.store.stream import ShardStream
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.settings import ExtractionSettings, Preprocessing

from helpers.tiny import random_images

SETTINGS = ExtractionSettings("b", "w", ("a", "b"), ((9, 17, 16), (40, 8, 7)), 13, Preprocessing())
IMAGES = random_images(SETTINGS, 7)
ROWS = 3  # of a shard, where there are several


class Store(Protocol):
    """Reads images by their number."""

    files: list[Path]

    def pooled(self, number: int) -> np.ndarray: ...

    def maps(self, number: int) -> list[np.ndarray]: ...

    def thumbnail(self, number: int) -> bytes: ...

    def checked(self, number: int) -> StoredImage: ...

    def damaged(self) -> list[int]: ...


class ShardStore:
    """Images in one or more shards."""

    def __init__(self, shards: list[Shard]) -> None:
        self.files = [shard.path for shard in shards]
        self._shards = shards
        self._rows = [(shard, row) for shard in shards for row in range(shard.rows)]
        assert len(self._rows) == len(IMAGES)

    def pooled(self, number: int) -> np.ndarray:
        shard, row = self._rows[number]
        return shard.pooled()[row]

    def maps(self, number: int) -> list[np.ndarray]:
        shard, row = self._rows[number]
        maps = [np.full((h * w, c), np.nan, np.float16) for c, h, w in SETTINGS.level_shapes]
        shard.read_maps(row, maps)
        return maps

    def thumbnail(self, number: int) -> bytes:
        shard, row = self._rows[number]
        return shard.thumbnail(row)

    def checked(self, number: int) -> StoredImage:
        shard, row = self._rows[number]
        return shard.read_checked(row, IMAGES[number].origin.id)

    def damaged(self) -> list[int]:
        damaged = {shard: shard.damaged_rows() for shard in self._shards}
        return [number for number, (shard, row) in enumerate(self._rows) if row in damaged[shard]]


class GalleryStore:
    """Images in a gallery."""

    def __init__(self, path: Path) -> None:
        self._gallery = Gallery(path)
        self._images = list(self._gallery.images())
        self.files = [path / "shards" / row.file for row in self._gallery.catalog.shards().values()]

    def pooled(self, number: int) -> np.ndarray:
        return self._gallery.pooled([self._images[number]])[0]

    def maps(self, number: int) -> list[np.ndarray]:
        return [level[0] for level in self._gallery.maps([self._images[number].key])]

    def thumbnail(self, number: int) -> bytes:
        return self._gallery.thumbnail(self._images[number])

    def checked(self, number: int) -> StoredImage:
        return self._gallery.stored(self._images[number])

    def damaged(self) -> list[int]:
        lost = {image.id for problem in self._gallery.problems() for image in problem.lost}
        return [number for number, image in enumerate(self._images) if image.id in lost]


def written(folder: Path, images: list[NewImage] = IMAGES) -> tuple[Path, bytes | None]:
    """Write one shard; return its file and the layout to keep of it."""
    writer = ShardWriter(folder, 1, SETTINGS)
    for image in images:
        writer.append(image)
    shard = writer.commit()
    return shard.path, shard.layout


def opened_by_hdf5(folder: Path) -> Store:
    return ShardStore([Shard(written(folder)[0], SETTINGS)])


def opened_by_kept_layout(folder: Path) -> Store:
    path, layout = written(folder)
    recalled = ShardLayout.recall(layout or b"", 1, path, SETTINGS)
    assert recalled is not None
    return ShardStore([Shard(path, SETTINGS, recalled)])


def copied_by_hdf5(folder: Path) -> Store:
    """Open a copy made by HDF5, with the same values at other places."""
    path, _ = written(folder / "first")
    copy = folder / path.name
    with h5py.File(path) as old, h5py.File(copy, "w") as new:
        new.attrs.update(old.attrs)
        for name in ("maps", "pooled", "id", "thumbnail", "checksum"):
            old.copy(name, new)
    return ShardStore([Shard(copy, SETTINGS)])


def streamed(folder: Path) -> Store:
    stream = ShardStream(folder, SETTINGS, first=1, rows=ROWS, waiting=1)
    for start in range(0, len(IMAGES), 2):
        stream.put(IMAGES[start : start + 2])
    return ShardStore([Shard(shard.shard.path, SETTINGS) for shard in stream.close()])


def gallery(folder: Path) -> Store:
    with GalleryWriter(folder, SETTINGS, maps="float16") as writer:
        writer.shard_rows = ROWS
        writer.add_features(IMAGES)
    return GalleryStore(folder)


def compacted(folder: Path) -> Store:
    """Open a gallery whose images have moved to other shards."""
    with GalleryWriter(folder, SETTINGS, maps="float16") as writer:
        writer.shard_rows = ROWS
        writer.add_features([*IMAGES[:1], *random_images(SETTINGS, 9, seed=2)[7:], *IMAGES[1:]])
        writer.remove(["folder/ünï-7.png", "folder/ünï-8.png"])
        writer.shard_rows = 3 * ROWS
        writer.compact()
        assert list(writer.gallery.catalog.shards()) == [4]
    return GalleryStore(folder)


def gallery_without_layouts(folder: Path) -> Store:
    """Open a gallery as earlier versions wrote it."""
    gallery(folder)
    with closing(sqlite3.connect(folder / "catalog.sqlite")) as db:
        db.execute("DROP TABLE layouts")
    (folder / "catalog.check").unlink()
    return GalleryStore(folder)


MAKERS = [
    opened_by_hdf5,
    opened_by_kept_layout,
    copied_by_hdf5,
    streamed,
    gallery,
    compacted,
    gallery_without_layouts,
]


@pytest.fixture(params=MAKERS, ids=lambda make: make.__name__)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    make: Callable[[Path], Store] = request.param
    return make(tmp_path)


def assert_equal(found: StoredImage, expected: StoredImage) -> None:
    np.testing.assert_array_equal(found.pooled, expected.pooled)
    for level, of_expected in zip(found.maps, expected.maps, strict=True):
        assert level.dtype == np.float16
        np.testing.assert_array_equal(level, of_expected)
    assert found.thumbnail == expected.thumbnail


def test_it_reads_what_was_written(store: Store) -> None:
    for number, image in enumerate(IMAGES):
        assert store.pooled(number).dtype == np.float32
        assert_equal(
            StoredImage(store.pooled(number), store.maps(number), store.thumbnail(number)),
            image.stored,
        )
        assert_equal(store.checked(number), image.stored)
    assert store.damaged() == []


def test_values_outlive_the_names_of_open_files(store: Store) -> None:
    for number in range(len(IMAGES)):  # opens its shard, and maps no descriptors yet
        store.maps(number)
    for file in store.files:
        file.unlink()
    for number, image in enumerate(IMAGES):
        np.testing.assert_array_equal(store.pooled(number), image.stored.pooled)
        for level, expected in zip(store.maps(number), image.stored.maps, strict=True):
            np.testing.assert_array_equal(level, expected)


@pytest.mark.parametrize("part", ["id", "pooled", "fine map", "coarse map", "thumbnail"])
def test_a_flipped_byte_costs_one_image(store: Store, part: str) -> None:
    number = 4
    id, stored = IMAGES[number].origin.id, IMAGES[number].stored
    wanted = {
        "id": id.encode(),
        "pooled": stored.pooled.tobytes(),
        "fine map": stored.maps[0].tobytes(),
        "coarse map": stored.maps[1].tobytes(),
        "thumbnail": stored.thumbnail,
    }[part]
    (file,) = (file for file in store.files if wanted in file.read_bytes())
    data = bytearray(file.read_bytes())
    data[data.index(wanted) + len(wanted) // 2] ^= 1
    file.write_bytes(data)
    assert store.damaged() == [number]
    with pytest.raises(GalleryDamaged, match=file.name):
        store.checked(number)
    assert_equal(store.checked(number - 1), IMAGES[number - 1].stored)


def test_truncation_under_an_open_reader_is_named(store: Store) -> None:
    for number in range(len(IMAGES)):
        store.pooled(number)
    file = store.files[-1]
    os.truncate(file, 8192)
    with pytest.raises(GalleryDamaged, match=file.name):
        store.maps(len(IMAGES) - 1)


def test_descriptors_of_an_index_are_those_of_the_images(tmp_path: Path) -> None:
    keys = np.array([3, 5, 8, 9, 12, 40, 41])
    pooled = np.stack([image.stored.pooled for image in IMAGES])
    write_descriptors(tmp_path / "d.h5", iter([(keys[:2], pooled[:2]), (keys[2:], pooled[2:])]), 7, 13)
    descriptors = Descriptors(tmp_path / "d.h5")
    assert descriptors.places(np.array([41, 4, 3, 99])).tolist() == [6, -1, 0, -1]
    np.testing.assert_array_equal(descriptors.at(descriptors.places(keys)), pooled)
    np.testing.assert_array_equal(np.concatenate([block for _, block in descriptors.blocks()]), pooled)
