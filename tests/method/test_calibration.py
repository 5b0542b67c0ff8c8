"""Calibration: what a gallery's own images score without themselves, thresholds and p-values."""

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spade_index.errors import GalleryDamaged, InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.store.leave_one_out import LeaveOneOut, as_stored
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.method.calibration import Calibration, calibrate, store
from spade_index.method.detector import Detector
from spade_index.method.judgement import carry_on
from spade_index.method.normal_scores import NormalScores, images_needed
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


def as_dicts(calibration: Calibration) -> list[dict[str, float]]:
    """Return the scores of every image, in the order of keys."""
    scores = calibration.found.scores
    return [{kind: float(values[row]) for kind, values in scores.items()} for row in range(len(calibration.found))]


def test_images_that_cannot_be_compared_are_refused(gallery_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a catalog that was changed counts images that it does not list."""
    monkeypatch.setattr(Gallery, "sample", lambda gallery, count: [])
    with Gallery(gallery_path) as gallery, pytest.raises(InputError, match="none of its images can be compared"):
        calibrate(gallery, SearchSettings())


@pytest.mark.parametrize("false_alarms", [0.1, 0.25, 0.5])
def test_scores_and_thresholds_by_definition(
    gallery_path: Path, by_definition: list[dict[str, float]], false_alarms: float
) -> None:
    told: list[int] = []
    with Gallery(gallery_path) as gallery:
        found = calibrate(gallery, SEARCH, false_alarms=false_alarms, progress=told.append)
    assert (found.images, found.snapshot, found.false_alarms, sum(told)) == (12, 3, false_alarms, 12)
    for scores, expected in zip(as_dicts(found), by_definition, strict=True):
        assert {kind: scores[kind] for kind in expected} == pytest.approx(expected, rel=1e-4)
        assert scores["peak"] == scores["map"]
    for kind, threshold in found.thresholds.items():
        highest = sorted((scores[kind] for scores in as_dicts(found)), reverse=True)
        assert threshold == highest[int(false_alarms * 13) - 1]
    json.dumps(found.record())


@given(
    scores=st.lists(st.floats(-5, 5), min_size=10, max_size=40),
    score=st.floats(-6, 6),
    false_alarms=st.sampled_from([0.02, 0.05, 0.1, 0.25, 0.5, 0.9]),
)
def test_a_score_is_above_the_threshold_where_its_p_value_is_small(
    scores: list[float], score: float, false_alarms: float
) -> None:
    count = len(scores)
    found = LeaveOneOut(np.arange(count), {"map": np.array(scores)}, np.zeros((count, 1), np.float16))
    normal = NormalScores(found)
    p_value, threshold = normal.p_value("map", score), normal.threshold("map", false_alarms)
    assert p_value == (1 + sum(other >= score for other in scores)) / (count + 1)
    assert (threshold is not None and score > threshold) == (p_value <= false_alarms + 1e-12)
    assert (threshold is None) == (count < images_needed(false_alarms))


def test_new_normal_scores_are_above_the_threshold_as_often_as_asked() -> None:
    random, called = np.random.default_rng(0), []
    for _ in range(400):
        drawn = random.gamma(2.0, size=60)
        found = LeaveOneOut(np.arange(59), {"map": drawn[:59]}, np.zeros((59, 1), np.float16))
        threshold = NormalScores(found).threshold("map", 0.1)
        assert threshold is not None
        called.append(drawn[59] > threshold)
    assert np.mean(called) == pytest.approx(0.1, abs=0.045)  # three standard errors


def test_a_sample_is_spread_over_the_gallery(gallery_path: Path, by_definition: list[dict[str, float]]) -> None:
    with Gallery(gallery_path) as gallery:
        found = calibrate(gallery, SEARCH, sample=3)
    assert found.images == 3
    expected = [scores["pooled"] for scores in by_definition]
    positions = [expected.index(pytest.approx(scores["pooled"], rel=1e-4)) for scores in as_dicts(found)]
    assert (positions[0], positions[-1]) == (0, 11)
    assert 3 < positions[1] < 8


def test_all_images_as_neighbours(gallery_path: Path) -> None:
    with Gallery(gallery_path) as gallery:
        found = calibrate(gallery, SearchSettings(score_neighbours=50, gallery_neighbours=50))
    plain = PlainGallery(gallery_path)
    means = [np.mean([d for _, d in plain.nearest(pooled, 12)[1:]]) for pooled in plain.pooled.values()]
    assert found.found.scores["pooled"] == pytest.approx(means, rel=1e-4)


def test_near_duplicates_do_not_stand_in_for_each_other(gallery_path: Path, backbone: Backbone) -> None:
    with GalleryWriter(gallery_path) as writer:
        files = [image_file(f"twin-{number}.png", png(50) + bytes(number)) for number in range(4)]
        assert writer.add(files, backbone).added == 4
        twins = [writer.gallery.image(file.id).key for file in files]
        found = calibrate(writer.gallery, SEARCH)
        scores = dict(zip(found.found.keys.tolist(), found.found.scores["pooled"].tolist(), strict=True))
        nearest = writer.gallery.nearest(writer.gallery.pooled([writer.gallery.image("twin-0.png")]), 16)[0]
    others = [neighbour.distance for neighbour in nearest if neighbour.key not in twins]
    assert [scores[key] for key in twins] == pytest.approx([np.mean(others[:2])] * 4)


def test_thresholds_are_used_for_the_same_search_settings_only(gallery_path: Path, backbone: Backbone) -> None:
    with GalleryWriter(gallery_path) as writer:
        calibration = calibrate(writer.gallery, SEARCH, false_alarms=0.1)
        store(writer, SEARCH, calibration)
    with Gallery(gallery_path) as gallery:
        (stored,) = gallery.info()["calibrations"]
        assert {name: value for name, value in stored.items() if name not in ("file", "digest")} == calibration.record()
        for kind, threshold in calibration.thresholds.items():
            search = replace(SEARCH, image_score=kind)
            assert Detector(gallery, backbone, search).thresholds[kind] == threshold
            assert Detector(gallery, backbone, search, threshold=1.5).thresholds[kind] == 1.5
        auto = Detector(gallery, backbone, replace(SEARCH, maps="auto"))
        assert auto.thresholds["pooled"] == calibration.thresholds["pooled"]
        for other in ({"score_neighbours": 3}, {"smoothing": 2.0}, {"mode": "per-level"}, {"level_weights": "equal"}):
            assert Detector(gallery, backbone, SearchSettings(**{**vars(SEARCH), **other})).thresholds == {}


def test_the_share_of_false_alarms_decides(gallery_path: Path, backbone: Backbone) -> None:
    with GalleryWriter(gallery_path) as writer:
        store(writer, SEARCH, calibrate(writer.gallery, SEARCH))
    with Gallery(gallery_path) as gallery:
        assert Detector(gallery, backbone, SEARCH).thresholds == {}  # 19 images are needed for 0.05
        thresholds = [Detector(gallery, backbone, SEARCH, false_alarms=rate).thresholds["map"] for rate in (0.1, 0.5)]
        assert thresholds[0] > thresholds[1]
        with pytest.raises(InputError, match="false alarms"):
            Detector(gallery, backbone, SEARCH, false_alarms=1.0)


def test_a_calibration_is_carried_on(gallery_path: Path, backbone: Backbone) -> None:
    with GalleryWriter(gallery_path) as writer:
        carry_on(writer, SEARCH)
        writer.remove(["003.png"])
        writer.add([image_file("new.png", png(77))], backbone)
        scored: list[int] = []
        carry_on(writer, SEARCH, progress=scored.append)
        assert sum(scored) == 1
        normal = Detector(writer.gallery, search=SEARCH).normal_scores
        assert normal is not None
        assert len(normal) == 12
        assert len(list((gallery_path / "calibrations").iterdir())) == 1


def test_calibrating_again_replaces_the_first_calibration(gallery_path: Path, backbone: Backbone) -> None:
    with GalleryWriter(gallery_path) as writer:
        store(writer, SEARCH, calibrate(writer.gallery, SEARCH, false_alarms=0.8))
        store(writer, SEARCH, calibrate(writer.gallery, SEARCH, false_alarms=0.25))
        store(writer, SearchSettings(), calibrate(writer.gallery, SearchSettings()))
        assert len(writer.gallery.catalog.calibrations()) == 2
        stored = json.loads(writer.gallery.catalog.calibration(SEARCH.calibration_key()) or "")
    assert (stored["false_alarms"], stored["quantile"]) == (0.25, 0.75)
    assert len(list((gallery_path / "calibrations").iterdir())) == 2


def test_a_damaged_calibration_is_named_and_dropped(gallery_path: Path, backbone: Backbone) -> None:
    with GalleryWriter(gallery_path) as writer:
        store(writer, SEARCH, calibrate(writer.gallery, SEARCH, false_alarms=0.25))
    (file,) = (gallery_path / "calibrations").iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with GalleryWriter(gallery_path) as writer:
        problems = list(writer.gallery.problems())
        assert [str(file) in problem.line for problem in problems] == [True]
        writer.repair(problems)
        assert list(writer.gallery.verify()) == []
        assert Detector(writer.gallery, backbone, SEARCH).thresholds == {}
        assert not file.exists()


def test_a_calibration_without_its_file_is_damage(gallery_path: Path, backbone: Backbone) -> None:
    with GalleryWriter(gallery_path) as writer:
        store(writer, SEARCH, calibrate(writer.gallery, SEARCH))
    (file,) = (gallery_path / "calibrations").iterdir()
    file.unlink()
    with Gallery(gallery_path) as gallery, pytest.raises(GalleryDamaged, match="spade-index calibrate"):
        Detector(gallery, backbone, SEARCH)


def test_too_few_images_are_refused(gallery_path: Path) -> None:
    with GalleryWriter(gallery_path) as writer:
        writer.remove(["000.png", "001.png", "002.png"])
        with pytest.raises(InputError, match="9 images are too few"):
            calibrate(writer.gallery, SEARCH)


@pytest.mark.parametrize("false_alarms", [0, -0.1, 1, 1.01])
def test_a_share_out_of_range_is_refused(gallery_path: Path, false_alarms: float) -> None:
    with Gallery(gallery_path) as gallery, pytest.raises(InputError, match="false alarms"):
        calibrate(gallery, SEARCH, false_alarms=false_alarms)


def test_a_damaged_calibration_can_be_made_again(gallery_path: Path) -> None:
    with GalleryWriter(gallery_path) as writer:
        store(writer, SEARCH, calibrate(writer.gallery, SEARCH, false_alarms=0.25))
        (file,) = (gallery_path / "calibrations").iterdir()
        file.write_bytes(b"damaged")
        with pytest.raises(GalleryDamaged):
            Detector(writer.gallery, search=SEARCH)
        carry_on(writer, SEARCH)
        detector = Detector(writer.gallery, search=SEARCH)
    assert detector.false_alarms == 0.25
    assert set(detector.thresholds) == {"pooled", "map", "both"}


def test_scores_in_another_file_are_refused(gallery_path: Path, tmp_path: Path) -> None:
    with GalleryWriter(gallery_path) as writer:
        store(writer, SEARCH, calibrate(writer.gallery, SEARCH))
    (path,) = (gallery_path / "calibrations").iterdir()
    (tmp_path / "secret").write_bytes(bytes(8 * 12))
    with h5py.File(path, "r+") as file:
        del file["key"]
        file.create_dataset("key", (12,), "<i8", external=[(str(tmp_path / "secret"), 0, 8 * 12)])
    with pytest.raises(GalleryDamaged, match="other files"):
        LeaveOneOut.read(path)


def test_maps_beyond_float16_are_kept_at_its_largest_value(tmp_path: Path) -> None:
    found = LeaveOneOut(np.array([1, 2]), {"map": np.ones(2)}, as_stored([np.float32([1e6, 2]), np.float32([3, 4])]))
    found.write(tmp_path / "x.h5")
    np.testing.assert_array_equal(LeaveOneOut.read(tmp_path / "x.h5").maps, [[65504, 2], [3, 4]])
