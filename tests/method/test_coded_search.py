"""Maps are searched in codes where not all of them fit into memory as values: with the same answers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from spade_index.errors import GalleryDamaged
from spade_index.gallery import Gallery
from spade_index.gallery.store.quantizer import KIND
from spade_index.gallery.store.shard import Shard
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.kernels import CodedMaps
from spade_index.method.comparison import Comparison
from spade_index.method.detector import Detector
from spade_index.settings import SearchSettings

SEARCHES = [
    SearchSettings(gallery_neighbours=3),
    SearchSettings(gallery_neighbours=3, scaling="length", grid=6, pixel_neighbours=2),
    SearchSettings(gallery_neighbours=3, scaling="channel", compared_levels=(1, 2), window=1),
]
KERNELS = ["native", "torch", "reference"]


def found(
    gallery: Gallery, search: SearchSettings, memory: int | None, kernel: str, count: int = 3
) -> tuple[list[np.ndarray], bool]:
    """Return the score maps of the gallery's first images, and whether maps were kept in codes."""
    detector = Detector(gallery, search=search, map_memory=memory, kernel=kernel)
    images = list(gallery.images())[:count]
    levels = gallery.maps([image.key for image in images])
    pyramid = [torch.from_numpy(level).float() for level in levels]
    detections = detector.detect_features(gallery.pooled(images), pyramid, without={image.key for image in images})
    maps = [detection.pixels.score_map for detection in detections if detection.pixels is not None]
    assert len(maps) == len(images)
    return maps, isinstance(detector.pixel_search.maps.pool.maps, CodedMaps)


def assert_equal(some: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> None:
    for one, other in zip(some, others, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("search", SEARCHES, ids=["as stored", "length", "window"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("codec", ["int8", "int4", KIND])
def test_answers_are_those_of_decoded_maps(codec: str, kernel: str, search: SearchSettings, gallery_path: Path) -> None:
    with GalleryWriter(gallery_path) as writer:
        writer.compact(maps=codec)
    with Gallery(gallery_path) as gallery:
        expected, kept = found(gallery, search, None, kernel)
        assert not kept, "all of them fit"
        maps, kept = found(gallery, search, 1, kernel)
    assert kept is (codec != "int8" or search == SEARCHES[0]), "others are not much larger than their codes"
    assert_equal(maps, expected)


def test_codes_that_take_more_than_prepared_maps_are_decoded(gallery_path: Path) -> None:
    search = SearchSettings(gallery_neighbours=3, grid=1)
    with GalleryWriter(gallery_path) as writer:
        writer.compact(maps="int8")
    with Gallery(gallery_path) as gallery:
        expected, _ = found(gallery, search, None, "native")
        maps, kept = found(gallery, search, 1, "native")
    assert not kept
    assert_equal(maps, expected)


class _Stopped(Exception):
    pass


def _stop(images: int) -> None:
    raise _Stopped


def test_a_gallery_whose_compaction_was_interrupted_is_searched_as_values(gallery_path: Path) -> None:
    with GalleryWriter(gallery_path) as writer:
        writer.shard_rows = 3
        with pytest.raises(_Stopped):
            writer.compact(_stop, maps="int4")
    with Gallery(gallery_path) as gallery:
        names = {gallery.storage_of(row.shard).name for row in gallery.images()}
        assert names == {"float16", "int4"}
        whole = sum(2 * c * h * w for c, h, w in gallery.settings.level_shapes)
        expected, _ = found(gallery, SEARCHES[1], None, "native", 6)
        for memory in (1, 4 * whole, 8 * whole):  # fewer fit as values than as codes
            maps, kept = found(gallery, SEARCHES[1], memory, "native", 6)
            assert not kept
            assert_equal(maps, expected)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_batch_decodes_no_more_maps_at_a_time_than_fit(kernel: str, gallery_path: Path) -> None:
    with GalleryWriter(gallery_path) as writer:
        writer.compact(maps=KIND)
    with Gallery(gallery_path) as gallery:
        whole = sum(2 * c * h * w for c, h, w in gallery.settings.level_shapes)
        detector = Detector(gallery, search=SEARCHES[0], map_memory=8 * whole, kernel=kernel)
        memory = detector.pixel_search.maps
        assert memory.pool.slots > 8
        assert memory.of_a_launch == (memory.pool.slots // 2 if kernel == "native" else 4)
        expected, _ = found(gallery, SEARCHES[0], None, kernel, 6)
        maps, kept = found(gallery, SEARCHES[0], 8 * whole, kernel, 6)
    assert kept
    assert_equal(maps, expected)


@pytest.mark.parametrize("kernel", KERNELS)
def test_values_that_are_not_finite_name_their_image(kernel: str, gallery_path: Path) -> None:
    with Gallery(gallery_path) as gallery:
        image = gallery.image("002.png")
        path = gallery_path / "shards" / (gallery.catalog.shard_file(image.shard) or "")
        with open(path, "r+b") as file:
            file.seek(int(Shard(path, gallery.settings).layout.maps[0][image.row]))
            file.write(np.array([np.inf], "<f2").tobytes())
    with Gallery(gallery_path) as gallery, pytest.raises(GalleryDamaged, match=r"image '002\.png' is damaged"):
        Detector(gallery, search=SEARCHES[1], kernel=kernel).comparison.read(
            [image.key], [[np.empty((h * w, c), np.float16)] for (h, w), c in _sizes(gallery)]
        )


def _sizes(gallery: Gallery) -> list[tuple[tuple[int, int], int]]:
    """Return the size and the channels of each level that is compared."""
    comparison = Comparison(gallery, SEARCHES[1])
    return list(zip(comparison.sizes, comparison.channels, strict=True))


def test_a_gallery_that_moves_to_another_codec_is_searched_on(gallery_path: Path) -> None:
    """As a service does whose gallery is compacted by another program; its counts go on."""
    search = SEARCHES[1]  # depends on nothing of the gallery but its maps
    with GalleryWriter(gallery_path) as writer:
        writer.compact(maps="int4")
    with Gallery(gallery_path) as gallery:
        detector = Detector(gallery, search=search, map_memory=1)
        image = next(gallery.images())
        levels = [torch.from_numpy(level).float() for level in gallery.maps([image.key])]
        detector.detect_features(gallery.pooled([image]), levels)
        memory = detector.pixel_search.maps
        assert isinstance(memory.pool.maps, CodedMaps)
        assert memory.stats.misses == 3
        with GalleryWriter(gallery_path) as writer:
            writer.compact(maps=KIND)
        gallery.at()
        image = next(gallery.images())
        (after,) = detector.detect_features(gallery.pooled([image]), levels)
        assert not isinstance(memory.pool.maps, CodedMaps)
        assert memory.stats.misses == 6
        (fresh,) = Detector(gallery, search=search).detect_features(gallery.pooled([image]), levels)
    assert after.pixels is not None
    assert fresh.pixels is not None
    np.testing.assert_array_equal(after.pixels.score_map, fresh.pixels.score_map)


@pytest.mark.parametrize("memory", [1, None], ids=["codes", "values"])
def test_a_damaged_range_is_named(memory: int | None, gallery_path: Path) -> None:
    with GalleryWriter(gallery_path) as writer:
        writer.compact(maps="int8")
    with Gallery(gallery_path) as gallery:
        for row in gallery.images():
            path = gallery_path / "shards" / (gallery.catalog.shard_file(row.shard) or "")
            with open(path, "r+b") as file:
                file.seek(int(Shard(path, gallery.settings).layout.maps[0][row.row]))
                file.write(np.array([np.inf], "<f2").tobytes())
    with Gallery(gallery_path) as gallery:
        detector = Detector(gallery, search=SEARCHES[0], map_memory=memory)
        levels = [torch.zeros(1, h * w, c) for c, h, w in gallery.settings.level_shapes]
        with pytest.raises(GalleryDamaged, match=r"a channel's range is not one"):
            detector.detect_features(np.zeros((1, gallery.settings.pooled_dim), np.float32), levels)
