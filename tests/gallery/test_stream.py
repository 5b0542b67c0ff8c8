"""Streams of batches give the features of single batches, and an ingest that ends early leaves nothing running."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from spade_index.errors import BackboneError, ImageError
from spade_index.features.backbone import Backbone, Features
from spade_index.gallery import Gallery

from helpers.tiny import build, files_of, parts_of, tiny_backbone

Folder = Callable[..., Path]


@pytest.fixture(autouse=True)
def two_lanes() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def batches(count: int, size: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (size, 32, 32, 3), np.uint8) for _ in range(count)]


def assert_same_bits(one: Features, other: Features) -> None:
    assert torch.equal(one.pooled, other.pooled)
    assert all(torch.equal(a, b) for a, b in zip(one.pyramid, other.pyramid, strict=True))


def rounded(features: Features) -> Features:
    return Features(features.pooled, [level.half() for level in features.pyramid])


def stored(path: Path) -> dict[str, list[np.ndarray]]:
    """Check a gallery; return the pooled descriptor and maps of every image."""
    with Gallery(path) as gallery:
        assert list(gallery.verify()) == []
        return {row.id: [gallery.stored(row).pooled, *gallery.stored(row).maps] for row in gallery.images()}


def test_a_stream_gives_the_features_of_single_batches(backbone: Backbone) -> None:
    some = batches(7, 5)
    found = list(backbone.stream(some, 2))
    assert len(found) == 7
    torch.set_num_threads(1)
    for features, batch in zip(found, some, strict=True):
        assert_same_bits(features, rounded(backbone(batch)))


def test_there_is_a_lane_per_thread(backbone: Backbone) -> None:
    assert [backbone.lanes(images) for images in (0, 1, 2, 32)] == [1, 1, 2, 2]
    (batch,) = batches(1, 9)
    whole, parts = rounded(backbone(batch)), list(backbone.stream(np.array_split(batch, 2), 2))
    joined = [torch.cat(levels) for levels in zip(*[part.pyramid for part in parts], strict=True)]
    assert_same_bits(whole, Features(torch.cat([part.pooled for part in parts]), joined))


def test_features_that_are_not_finite_stop_a_stream() -> None:
    backbone = tiny_backbone()
    some = batches(6, 2)
    bias = backbone._model.coarse.bias

    def poisoned() -> Iterator[np.ndarray]:
        yield from some[:3]
        torch.nn.init.constant_(bias, float("nan"))
        yield from some[3:]

    found: list[Features] = []
    with pytest.raises(BackboneError, match="not finite"):
        found.extend(backbone.stream(poisoned(), 2))
    assert len(found) <= 3


def test_queries_and_an_ingest_share_a_backbone(tmp_path: Path, image_folder: Folder, backbone: Backbone) -> None:
    images = image_folder(60)
    build(tmp_path / "alone", images, backbone, batch_size=8, index=False)
    queries = batches(3, 5, seed=1) + batches(1, 1, seed=2)
    expected = [backbone(batch) for batch in queries]
    ended = threading.Event()
    asked: list[int] = []

    def ask() -> None:
        while not ended.is_set() or not asked:
            for batch, features in zip(queries, expected, strict=True):
                assert_same_bits(backbone(batch), features)
            asked.append(1)

    failures: list[BaseException] = []

    def note(function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=note, args=(ask,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        report = build(tmp_path / "beside", images, backbone, batch_size=8, index=False)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert report.added == 60
    one, other = stored(tmp_path / "alone"), stored(tmp_path / "beside")
    assert list(one) == list(other)
    assert all(np.array_equal(a, b) for id in one for a, b in zip(one[id], other[id], strict=True))


def test_two_galleries_are_written_at_once(tmp_path: Path, image_folder: Folder, backbone: Backbone) -> None:
    folders = [image_folder(20, seed=seed, name=f"images-{seed}") for seed in range(2)]
    threads = [
        threading.Thread(target=build, args=(tmp_path / f"g{seed}", folder, backbone), kwargs={"batch_size": 4})
        for seed, folder in enumerate(folders)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(stored(tmp_path / f"g{seed}")) for seed in range(2)] == [20, 20]


@pytest.mark.parametrize("bad", [0, 3, 4, 9])
def test_strict_keeps_all_that_came_before(tmp_path: Path, image_folder: Folder, backbone: Backbone, bad: int) -> None:
    images, path = image_folder(10), tmp_path / "gallery"
    (images / f"{bad:03d}.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=f"{bad:03d}.png"):
        build(path, images, backbone, strict=True, batch_size=4, shard_rows=3)
    assert list(stored(path)) == [f"{number:03d}.png" for number in range(bad)]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_an_ingest_that_ends_early_leaves_nothing_running(
    tmp_path: Path,
    image_folder: Folder,
    backbone: Backbone,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[BaseException],
) -> None:
    path, images = tmp_path / "gallery", image_folder(25)
    told: list[int] = []
    at_work: list[int] = []
    features = backbone._features

    def counted(pixels: np.ndarray) -> Features:
        at_work.append(1)
        try:
            return features(pixels)
        finally:
            at_work.pop()

    def end(images: int) -> None:
        told.append(images)
        if len(told) == 4:
            raise kind

    monkeypatch.setattr(backbone, "_features", counted)
    before = threading.enumerate()  # those of other tests' services, too
    with pytest.raises(kind) as raised:
        build(path, images, backbone, batch_size=4, shard_rows=3, progress=end)
    assert raised.tb is not None  # what the error still refers to has ended, too
    assert not at_work
    names = [thread.name for thread in threading.enumerate() if thread not in before]
    assert [name for name in names if name.startswith(("decode", "write-shards", "Queue", "Executor"))] == []
    assert files_of(path) == parts_of(path)
    # After an interrupt it keeps all images that progress counted; after other errors, committed shards.
    there = len(stored(path))
    assert there in ([8] if kind is KeyboardInterrupt else [0, 3, 6])
    assert build(path, images, backbone, batch_size=4, index=False).added == 25 - there
    assert list(stored(path)) == [f"{number:03d}.png" for number in range(25)]
