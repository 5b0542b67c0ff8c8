"""What a worker decodes, keeps and writes, and how images are planned into shards; without a cluster."""

import os
import pickle
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spade_index.cluster import worker
from spade_index.cluster.elsewhere import Plan, planned
from spade_index.cluster.worker import Batch, Order, Wanted, Worker
from spade_index.errors import ImageError, InputError, StorageError
from spade_index.gallery.store.quantizer import Quantized
from spade_index.gallery.store.shard import Shard
from spade_index.gallery.store.storage import MapStorage
from spade_index.gallery.store.stream import ShardStream, StreamedShard
from spade_index.gallery.write.cleanup import INCOMING
from spade_index.gallery.write.train import tables_of
from spade_index.images import DecodedImage, find_images, load
from spade_index.settings import DecodeLimits

from helpers.clusters import blended_backbone
from helpers.tiny import tiny_backbone, write_images


@pytest.fixture
def order(tmp_path: Path) -> Order:
    """The order of a gallery's writer."""
    (tmp_path / "gallery" / INCOMING).mkdir(parents=True)
    return Order(tmp_path / "gallery", os.getcwd(), MapStorage.FLOAT16, blended_backbone, 1, DecodeLimits())


def looked_at(at_work: Worker, folder: Path) -> list[DecodedImage | ImageError]:
    """Have a worker decode a folder."""
    return at_work.look(list(find_images(folder)))


def wanted(images: list[DecodedImage | ImageError]) -> list[Wanted]:
    """Admit all images that could be decoded."""
    return [Wanted(image.file, image.id, image.digest) for image in images if isinstance(image, DecodedImage)]


def test_images_come_back_without_pixels_and_errors_in_their_place(order: Order, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 3)
    (folder / "001.png").write_bytes(b"")
    first, error, last = looked_at(Worker(order), folder)
    assert isinstance(error, ImageError)
    assert "001.png" in str(error)
    for image in (first, last):
        assert isinstance(image, DecodedImage)
        assert image.digest == load(image.file, tiny_backbone().settings.preprocessing).digest
        assert image.pixels.size == len(image.thumbnail) == 0


@pytest.mark.parametrize("kept", [0, 1 << 20])
def test_a_shard_is_the_same_whether_images_were_kept_or_not(
    order: Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    folder = write_images(tmp_path / "images", 5)
    first, second = Worker(order), Worker(order)
    images = wanted(looked_at(first, folder))
    batches = [Batch(images[:3], 1, 3), Batch(images[3:], 0, 1)]
    made = first.make(7, batches)
    monkeypatch.setattr(worker, "KEPT", kept)
    looked_at(second, folder)
    again = second.make(7, batches)
    assert [image.id for image in made.shard.images] == ["001.png", "002.png", "003.png"]
    assert made.shard.path != again.shard.path
    assert made.shard.path.read_bytes() == again.shard.path.read_bytes()
    assert replace(again, shard=replace(again.shard, path=made.shard.path)) == made


def test_the_backbone_works_while_a_shard_is_completed(
    order: Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work, begun, close = Worker(order), threading.Event(), ShardStream.close
    images = wanted(looked_at(at_work, write_images(tmp_path / "images", 4)))

    def first_waits(stream: ShardStream) -> Iterator[StreamedShard]:
        if not begun.is_set():
            begun.set()
            assert other.result(60).shard.number == 2  # which needs the backbone
        return close(stream)

    def make_other() -> StreamedShard:
        assert begun.wait(60)
        return at_work.make(2, [Batch(images[2:], 0, 2)])

    monkeypatch.setattr(ShardStream, "close", first_waits)
    with ThreadPoolExecutor() as threads:
        other = threads.submit(make_other)
        made = at_work.make(1, [Batch(images[:2], 0, 2)])
    assert [image.id for image in made.shard.images] == ["000.png", "001.png"]


def test_an_image_that_changes_after_it_was_admitted(order: Order, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 2)
    images = wanted(looked_at(Worker(order), folder))
    write_images(folder, 2, seed=5)
    with pytest.raises(InputError, match=r"000\.png: has changed since it was read first"):
        Worker(order).make(1, [Batch(images, 0, 2)])
    (folder / "000.png").unlink()
    with pytest.raises(ImageError, match=r"000\.png"):
        Worker(order).make(1, [Batch(images, 0, 2)])


def test_a_worker_that_was_given_up_writes_nothing(order: Order, tmp_path: Path) -> None:
    at_work = Worker(order)
    images = wanted(looked_at(at_work, write_images(tmp_path / "images", 2)))
    (order.gallery / INCOMING).rmdir()  # as the writer does in the end
    with pytest.raises(StorageError):
        at_work.make(1, [Batch(images, 0, 2)])
    assert list(order.gallery.iterdir()) == []


def test_a_worker_stores_maps_by_the_tables_that_it_was_told(order: Order, tmp_path: Path) -> None:
    folder, settings = write_images(tmp_path / "images", 3), blended_backbone().settings
    random = np.random.default_rng(0)
    maps = [random.normal(size=(300, channels)).astype("<f2") for channels, _, _ in settings.level_shapes]
    storage = MapStorage(Quantized.by([tables_of(values, 3) for values in maps]))
    made = []
    for of in (MapStorage.FLOAT16, storage):
        at_work = Worker(pickle.loads(pickle.dumps(replace(order, storage=of))))
        made.append(at_work.make(1, [Batch(wanted(looked_at(at_work, folder)), 0, 3)]).shard.path)
    plain, quantized = Shard(made[0], settings), Shard(made[1], settings)
    assert quantized.storage == storage
    for row in range(3):
        stored = plain.read_checked(row, f"{row:03d}.png").encoded(storage)
        for mine, theirs in zip(stored.maps, quantized.read_checked(row, f"{row:03d}.png").maps, strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("rows", [1, 2, 3, 11])
def test_batches_fill_shards(tmp_path: Path, size: int, rows: int) -> None:
    how = tiny_backbone().settings.preprocessing
    images = [load(file, how) for file in find_images(write_images(tmp_path / "images", 11))]
    batches = [images[start : start + size] for start in range(0, 11, size)]

    def failing() -> Iterator[list[DecodedImage]]:
        yield from batches
        raise InputError("an archive is damaged")

    plans: list[Plan] = []
    with pytest.raises(InputError, match="damaged"):
        deque(map(plans.append, planned(failing(), 4, rows)))
    assert plans == list(planned(batches, 4, rows))
    of = [[i.id for b in plan.batches for i in b.images[b.first : b.last]] for plan in plans]
    assert [id for ids in of for id in ids] == [image.id for image in images]
    assert [len(ids) for ids in of] == [rows] * (11 // rows) + [11 % rows] * (11 % rows > 0)
    assert [plan.number for plan in plans] == list(range(4, 4 + len(plans)))
    whole = {tuple(image.id for image in batch) for batch in batches}
    assert {tuple(image.id for image in batch.images) for plan in plans for batch in plan.batches} == whole
