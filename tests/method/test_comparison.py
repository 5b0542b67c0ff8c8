"""How feature maps are prepared before they are compared: by definition, and without reading what is left out."""

from pathlib import Path

import numpy as np
import pytest
import torch

from spade_index.errors import InputError
from spade_index.gallery import Gallery
from spade_index.gallery.store import shard
from spade_index.gallery.store.codecs import NAMES, codec_named
from spade_index.gallery.store.rows import read_at
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.method.comparison import Comparison, level_weights
from spade_index.method.detector import Detector
from spade_index.settings import SearchSettings

from helpers.brute import PlainGallery


def prepared(gallery: Gallery, **search: object) -> list[np.ndarray]:
    """Return the prepared levels of the first image, float32 [H*W, C]."""
    image = next(gallery.images())
    pyramid = [torch.from_numpy(level).float() for level in gallery.maps([image.key])]
    return [level[0].numpy() for level in Comparison(gallery, SearchSettings(**search)).prepare(pyramid)]


def stored(gallery_path: Path) -> list[np.ndarray]:
    """Return the levels of the first image as they are stored, float32 [H*W, C]."""
    return [level.astype(np.float32) for level in next(iter(PlainGallery(gallery_path).maps.values()))]


def test_vectors_are_scaled_to_length_one(gallery_path: Path) -> None:
    with Gallery(gallery_path) as gallery:
        found = prepared(gallery, scaling="length")
    for level, raw in zip(found, stored(gallery_path), strict=True):
        np.testing.assert_allclose(level, raw / np.linalg.norm(raw, axis=1, keepdims=True), rtol=1e-5)


def test_vectors_are_scaled_to_the_root_of_their_length(gallery_path: Path) -> None:
    with Gallery(gallery_path) as gallery:
        found = prepared(gallery, scaling="root")
    for number, (level, raw) in enumerate(zip(found, stored(gallery_path), strict=True)):
        every = [maps[number].astype(np.float64) for maps in PlainGallery(gallery_path).maps.values()]
        mean = np.mean([np.linalg.norm(one, axis=1).mean() for one in every])
        length = np.linalg.norm(raw, axis=1, keepdims=True)
        np.testing.assert_allclose(level, raw / np.sqrt(length * mean), rtol=1e-4)


def test_vectors_are_whitened_by_channel(gallery_path: Path) -> None:
    with Gallery(gallery_path) as gallery:
        found = prepared(gallery, scaling="channel")
    for number, (level, raw) in enumerate(zip(found, stored(gallery_path), strict=True)):
        every = np.concatenate([maps[number].astype(np.float64) for maps in PlainGallery(gallery_path).maps.values()])
        white = (raw - every.mean(0)) / every.std(0)
        np.testing.assert_allclose(level, white / np.linalg.norm(white, axis=1, keepdims=True), atol=1e-4)


def test_finer_levels_are_averaged_to_the_grid(gallery_path: Path) -> None:
    with Gallery(gallery_path) as gallery:
        weights, channels = level_weights(gallery, SearchSettings()), gallery.settings.level_shapes[0][0]
        way = Comparison(gallery, SearchSettings(grid=4))
        found = prepared(gallery, grid=4)
    assert way.sizes == [(4, 4), (2, 2)]
    raw = stored(gallery_path)
    fine = raw[0].reshape(4, 2, 4, 2, -1).mean((1, 3)).reshape(16, -1)
    assert way.weights == [max(weights[:2]), weights[2]]
    shares = np.sqrt(np.array(weights[:2]) / max(weights[:2]))  # distances between joined levels are weighed so
    np.testing.assert_allclose(found[0][:, :channels], fine * shares[0], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found[0][:, channels:], raw[1] * shares[1], rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(found[1], raw[2])


def test_cells_are_averaged_before_they_are_scaled_and_levels_of_one_size_are_joined(gallery_path: Path) -> None:
    with Gallery(gallery_path) as gallery:
        way = Comparison(gallery, SearchSettings(scaling="length", grid=4))
        found = prepared(gallery, scaling="length", grid=4)
        white = Comparison(gallery, SearchSettings(scaling="channel", grid=4))
        whitened = prepared(gallery, scaling="channel", grid=4)
        shapes = gallery.settings.level_shapes
    assert way.sizes == white.sizes == [(4, 4), (2, 2)]
    assert way.channels == [shapes[0][0] + shapes[1][0], shapes[2][0]]
    assert way.weights == [1.0, 1.0]

    def cells(raw: np.ndarray) -> np.ndarray:
        return raw.astype(np.float64).reshape(4, 2, 4, 2, -1).mean((1, 3)).reshape(16, -1)

    raw = stored(gallery_path)
    joined = [level / np.linalg.norm(level, axis=1, keepdims=True) for level in (cells(raw[0]), raw[1])]
    np.testing.assert_allclose(found[0], np.concatenate(joined, 1), rtol=1e-4, atol=1e-5)
    every = np.concatenate([cells(maps[0]) for maps in PlainGallery(gallery_path).maps.values()])
    one = (cells(raw[0]) - every.mean(0)) / every.std(0)
    expected = one / np.linalg.norm(one, axis=1, keepdims=True)
    np.testing.assert_allclose(whitened[0][:, : shapes[0][0]], expected, atol=1e-4)


def test_the_gallerys_maps_are_prepared_as_the_querys(gallery_path: Path) -> None:
    """So an image that is searched for with itself is found with distance 0, up to the rounding of float16."""
    for scaling in ("none", "root", "length", "channel"):
        search = SearchSettings(scaling=scaling, compared_levels=(0, 2), grid=4, gallery_neighbours=3, smoothing=0)
        with Gallery(gallery_path) as gallery:
            image = next(gallery.images())
            pyramid = [torch.from_numpy(level).float() for level in gallery.maps([image.key])]
            detector = Detector(gallery, search=search)
            (alone,) = detector.detect_features(gallery.pooled([image]), pyramid, without={image.key})
            (found,) = detector.detect_features(gallery.pooled([image]), pyramid)
        assert found.pixels is not None
        assert alone.pixels is not None
        assert found.pixels.size == (4, 4)
        assert found.pixels.score < 1e-4 * alone.pixels.score


def test_levels_that_are_left_out_are_not_read(gallery_path: Path) -> None:
    with Gallery(gallery_path) as gallery:
        search = SearchSettings(compared_levels=(1,), gallery_neighbours=3)
        detector = Detector(gallery, search=search)
        image = next(gallery.images())
        pyramid = [torch.from_numpy(level).float() for level in gallery.maps([image.key])]
        detector.detect_features(gallery.pooled([image]), pyramid)
        channels, height, width = gallery.settings.level_shapes[1]
        assert detector.pixel_search.map_stats.bytes_moved == 3 * 2 * channels * height * width


@pytest.mark.parametrize("codec", NAMES)
def test_of_codes_only_the_bytes_of_searched_levels_are_read(
    codec: str, gallery_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def counting(fd: int, out: np.ndarray, offset: int) -> bool:
        read.append(out.nbytes)
        return read_at(fd, out, offset)

    with GalleryWriter(gallery_path) as writer:
        writer.compact(maps=codec)
    with Gallery(gallery_path) as gallery:
        detector = Detector(gallery, search=SearchSettings(compared_levels=(1,), gallery_neighbours=3))
        image = next(gallery.images())
        pyramid = [torch.from_numpy(level).float() for level in gallery.maps([image.key])]
        monkeypatch.setattr(shard, "read_at", counting)
        detector.detect_features(gallery.pooled([image]), pyramid)
        channels, height, width = gallery.settings.level_shapes[1]
    stored = codec_named(codec).encode(np.zeros((height * width, channels), "<f2"))
    assert read == 3 * [stored.nbytes]


@pytest.mark.parametrize("levels", [(3,), (0, 5)])
def test_a_level_that_is_not_there_is_named(gallery_path: Path, levels: tuple[int, ...]) -> None:
    with Gallery(gallery_path) as gallery, pytest.raises(InputError, match="has 3 levels"):
        Detector(gallery, search=SearchSettings(compared_levels=levels))


@pytest.mark.parametrize(
    "wrong",
    [
        {"scaling": "half"},
        {"compared_levels": ()},
        {"compared_levels": (1, 0)},
        {"compared_levels": (-1,)},
        {"grid": 0},
        {"window": -1},
        {"subtract_neighbours": 1.5},
        {"top_share": -0.1},
        {"top_share": float("nan")},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        SearchSettings(**wrong)
