"""Thresholds from leave-one-out scores of a gallery's own images."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from spade_index.errors import InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.method.calibration import calibrate, store
from spade_index.method.detector import Detector
from spade_index.settings import SearchSettings

from helpers.brute import PlainGallery
from helpers.tiny import image_file, png

SEARCH = SearchSettings(score_neighbours=2, gallery_neighbours=3, smoothing=1.0)


@pytest.fixture
def by_definition(gallery_path: Path) -> list[dict[str, float]]:
    """Return the leave-one-out scores of every image, in the order in which the images were added."""
    plain = PlainGallery(gallery_path)
    weights = [1 / variance for variance in plain.variances()]
    scores = []
    for id, pooled in plain.pooled.items():
        nearest = [(other, d) for other, d in plain.nearest(pooled, 4) if other != id][:3]
        pooled_score = float(np.mean([distance for _, distance in nearest[:2]]))
        distances, _ = plain.pixels(plain.maps[id], [other for other, _ in nearest], weights, "concat-nearest", 1)
        map_score = plain.score_map(distances, 1.0).max()
        scores.append({"pooled": pooled_score, "map": map_score, "both": pooled_score * map_score})
    return scores


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99, 1.0])
def test_thresholds_by_definition(gallery_path: Path, by_definition: list[dict[str, float]], quantile: float) -> None:
    told: list[int] = []
    with Gallery(gallery_path) as gallery:
        found = calibrate(gallery, SEARCH, quantile=quantile, progress=told.append)
    assert (found.images, found.snapshot, found.quantile, sum(told)) == (12, 3, quantile, 12)
    for kind, threshold in found.thresholds.items():
        scores = sorted(score[kind] for score in by_definition)
        assert threshold == pytest.approx(scores[int(np.ceil(quantile * 11 - 1e-9))], rel=1e-4)
        assert np.mean([score <= threshold * (1 + 1e-4) for score in scores]) >= quantile
    json.dumps(asdict(found))


def test_a_sample_is_spread_over_the_gallery(gallery_path: Path, by_definition: list[dict[str, float]]) -> None:
    with Gallery(gallery_path) as gallery:
        found = calibrate(gallery, SEARCH, quantile=1.0, sample=3)
    assert found.images == 3
    expected = max(by_definition[position]["pooled"] for position in (0, 6, 11))
    assert found.thresholds["pooled"] == pytest.approx(expected, rel=1e-4)


def test_all_images_as_neighbours(gallery_path: Path) -> None:
    with Gallery(gallery_path) as gallery:
        found = calibrate(gallery, SearchSettings(score_neighbours=50, gallery_neighbours=50), quantile=1.0)
    plain = PlainGallery(gallery_path)
    means = [np.mean([d for _, d in plain.nearest(pooled, 12)[1:]]) for pooled in plain.pooled.values()]
    assert found.thresholds["pooled"] == pytest.approx(max(means), rel=1e-4)


def test_an_image_with_duplicates_is_left_out_itself(gallery_path: Path, backbone: Backbone) -> None:
    """Neighbours with equal distances are sorted by id, so an image is not always its own first neighbour."""
    with GalleryWriter(gallery_path) as writer:
        files = [image_file(f"twin-{number}.png", png(50) + bytes(number)) for number in range(30)]
        assert writer.add(files, backbone).added == 30
        found = calibrate(writer.gallery, SEARCH, quantile=0.5)
    assert found.thresholds == {"pooled": 0.0, "map": pytest.approx(0, abs=1e-3), "both": 0.0}


def test_thresholds_are_used_for_the_same_search_settings_only(gallery_path: Path, backbone: Backbone) -> None:
    with GalleryWriter(gallery_path) as writer:
        calibration = calibrate(writer.gallery, SEARCH)
        store(writer, SEARCH, calibration)
    with Gallery(gallery_path) as gallery:
        assert gallery.info()["calibrations"] == [asdict(calibration)]
        for kind, threshold in calibration.thresholds.items():
            search = SearchSettings(**{**vars(SEARCH), "image_score": kind})
            assert Detector(gallery, backbone, search).thresholds[kind] == threshold
            assert Detector(gallery, backbone, search, threshold=1.5).thresholds[kind] == 1.5
        auto = Detector(gallery, backbone, SearchSettings(**{**vars(SEARCH), "maps": "auto"}))
        assert auto.thresholds["pooled"] == calibration.thresholds["pooled"]
        for other in ({"score_neighbours": 3}, {"smoothing": 2.0}, {"mode": "per-level"}, {"level_weights": "equal"}):
            assert Detector(gallery, backbone, SearchSettings(**{**vars(SEARCH), **other})).thresholds == {}


def test_calibrating_again_replaces_the_first_calibration(gallery_path: Path, backbone: Backbone) -> None:
    with GalleryWriter(gallery_path) as writer:
        store(writer, SEARCH, calibrate(writer.gallery, SEARCH, quantile=0.2))
        store(writer, SEARCH, calibrate(writer.gallery, SEARCH, quantile=0.9))
        store(writer, SearchSettings(), calibrate(writer.gallery, SearchSettings()))
        assert len(writer.gallery.catalog.calibrations()) == 2
        stored = json.loads(writer.gallery.catalog.calibration(SEARCH.calibration_key()) or "")
    assert stored["quantile"] == 0.9


def test_too_few_images_are_refused(gallery_path: Path) -> None:
    with GalleryWriter(gallery_path) as writer:
        writer.remove(["000.png", "001.png", "002.png"])
        with pytest.raises(InputError, match="9 images are too few"):
            calibrate(writer.gallery, SEARCH)


@pytest.mark.parametrize("quantile", [0, -0.1, 1.01])
def test_a_quantile_out_of_range_is_refused(gallery_path: Path, quantile: float) -> None:
    with Gallery(gallery_path) as gallery, pytest.raises(InputError, match="quantile"):
        calibrate(gallery, SEARCH, quantile=quantile)
