"""Scores that count what the nearest images score themselves: their maps are subtracted, map scores divided."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spade_index.errors import InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.method.alone import near_distance
from spade_index.method.calibration import calibrate, store
from spade_index.method.detector import Detector
from spade_index.settings import SearchSettings

from helpers.tiny import image_file, png

SEARCH = SearchSettings(score_neighbours=2, gallery_neighbours=3, smoothing=1.0)


def test_neighbours_maps_are_subtracted(gallery_path: Path) -> None:
    with Gallery(gallery_path) as gallery:
        plain = calibrate(gallery, SEARCH).found
        less = calibrate(gallery, replace(SEARCH, subtract_neighbours=0.5)).found
        for row, image in enumerate(gallery.images()):
            detector = Detector(gallery, search=SEARCH)
            nearest = detector.nearest_images(gallery.pooled([image]), {image.key}, near_distance(gallery))[0]
            own = plain.maps[plain.rows([n.key for n in nearest[:3]])].astype(np.float32).mean(0)
            left = plain.maps[row].astype(np.float32) - 0.5 * own
            score_map = detector.score_maps(torch.from_numpy(left)[None])[0]
            assert less.scores["map"][row] == pytest.approx(score_map.max(), rel=1e-2, abs=1e-2)


def test_map_scores_are_divided_by_those_of_the_neighbours(gallery_path: Path) -> None:
    search = replace(SEARCH, relative_score=True)
    with Gallery(gallery_path) as gallery:
        plain, divided = (calibrate(gallery, settings).found for settings in (SEARCH, search))
        detector = Detector(gallery, search=SEARCH)
        for row, image in enumerate(gallery.images()):
            nearest = detector.nearest_images(gallery.pooled([image]), {image.key}, near_distance(gallery))[0]
            own = plain.scores["map"][plain.rows([n.key for n in nearest[:3]])].mean()
            assert divided.scores["map"][row] == pytest.approx(plain.scores["map"][row] / own)
    assert divided.scores["both"] == pytest.approx(divided.scores["pooled"] * divided.scores["map"])
    np.testing.assert_array_equal(divided.scores["peak"], plain.scores["peak"])  # score maps stay as they are
    np.testing.assert_array_equal(divided.maps, plain.maps)


def test_a_detector_divides_by_what_its_neighbours_score(gallery_path: Path, backbone: Backbone) -> None:
    search = replace(SEARCH, relative_score=True)
    with (
        Gallery(gallery_path) as gallery,
        pytest.raises(InputError, match=r"spade-index calibrate .* --relative-score"),
    ):
        Detector(gallery, backbone, search)
    with GalleryWriter(gallery_path) as writer:
        store(writer, search, calibrate(writer.gallery, search))
        image = next(writer.gallery.images())
        pyramid = [torch.from_numpy(level).float() for level in writer.gallery.maps([image.key])]
        pooled = writer.gallery.pooled([image])
        relative = Detector(writer.gallery, search=search)
        assert relative.normal_scores is not None
        (found,) = relative.detect_features(pooled, pyramid, without={image.key})
        (plain,) = Detector(writer.gallery, search=SEARCH).detect_features(pooled, pyramid, without={image.key})
        own = relative.normal_scores.own_score([neighbour.key for neighbour in found.pixels.neighbours])
    assert found.scores["map"] == pytest.approx(plain.scores["map"] / own)
    assert found.scores["both"] == pytest.approx(plain.scores["both"] / own)
    np.testing.assert_array_equal(found.pixels.score_map, plain.pixels.score_map)


def test_copies_score_nothing_and_divide_by_nothing(tmp_path: Path, backbone: Backbone) -> None:
    files = [image_file(f"copy-{number}.png", png(50) + bytes(number)) for number in range(12)]
    search = replace(SEARCH, relative_score=True)
    with GalleryWriter(tmp_path / "gallery", backbone.settings, maps="float16") as writer:
        writer.add(files, backbone)
        found = calibrate(writer.gallery, search).found
    assert found.scores["map"] == pytest.approx([0] * 12, abs=1e-3)


def test_a_detector_subtracts_what_its_neighbours_score(gallery_path: Path, backbone: Backbone) -> None:
    search = replace(SEARCH, subtract_neighbours=1.0)
    with Gallery(gallery_path) as gallery, pytest.raises(InputError, match="spade-index calibrate"):
        Detector(gallery, backbone, search)
    with GalleryWriter(gallery_path) as writer:
        calibration = calibrate(writer.gallery, search)
        store(writer, search, calibration)
        image = next(writer.gallery.images())
        pyramid = [torch.from_numpy(level).float() for level in writer.gallery.maps([image.key])]
        pooled = writer.gallery.pooled([image])
        (found,) = Detector(writer.gallery, search=search).detect_features(pooled, pyramid, without={image.key})
        (plain,) = Detector(writer.gallery, search=SEARCH).detect_features(pooled, pyramid, without={image.key})
    assert found.pixels is not None
    assert plain.pixels is not None
    assert found.pixels.score_map.mean() < plain.pixels.score_map.mean()
    np.testing.assert_array_equal(found.pixels.distances, plain.pixels.distances)
