"""Calibration, tuning, splits and audits within a region of interest."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from spade_index.errors import InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images.interest import RegionOfInterest
from spade_index.method.audit import audit
from spade_index.method.by_neighbours import needs_own_scores
from spade_index.method.calibration import calibrate, store
from spade_index.method.defects import paste
from spade_index.method.detector import Detector
from spade_index.method.foreground import foreground, otsu
from spade_index.method.judgement import tune_and_calibrate
from spade_index.method.metrics import roc_auc
from spade_index.method.normal_scores import stored_calibration
from spade_index.method.splits import false_alarms_kept
from spade_index.method.synthetic import draw_sample
from spade_index.method.trials import Trials
from spade_index.method.tuned import tuned_search
from spade_index.settings import SearchSettings

from helpers.tiny import build, random_image, tiny_backbone, write_images

MASK = np.zeros((8, 8), bool)
MASK[1:6, :5] = True
SEARCH = SearchSettings(score_neighbours=2, gallery_neighbours=5, smoothing=1.0, top_share=0.05)


@pytest.fixture(scope="module")
def tiny() -> Backbone:
    return tiny_backbone()


@pytest.fixture
def path(tiny: Backbone, tmp_path: Path) -> Path:
    """A gallery of 24 images with a region of interest."""
    build(tmp_path / "gallery", write_images(tmp_path / "images", 24), tiny)
    with GalleryWriter(tmp_path / "gallery") as writer:
        writer.set_interest(RegionOfInterest(MASK, "test"))
    return tmp_path / "gallery"


@pytest.mark.parametrize("subtract", [0.0, 0.5])
def test_what_is_calibrated_is_what_queries_score(path: Path, subtract: float) -> None:
    """An image that is searched for without itself scores what the calibration stored of it."""
    search = replace(SEARCH, subtract_neighbours=subtract)
    with GalleryWriter(path) as writer:
        store(writer, search, calibrate(writer.gallery, search))
        stored = stored_calibration(writer.gallery, search)
        assert stored is not None
        assert stored.scores is not None
        detector = Detector(writer.gallery, search=search)
        for image in writer.gallery.sample(6):
            pyramid = [torch.from_numpy(level).float() for level in writer.gallery.maps([image.key])]
            pooled = writer.gallery.pooled([image])
            (found,) = detector.detect_features(pooled, pyramid, without={image.key})
            place = list(stored.scores.keys).index(image.key)
            assert found.pixels is not None
            assert found.scores["map"] == pytest.approx(stored.scores.of("map")[place], rel=1e-3)
            assert found.pixels.peak == pytest.approx(stored.scores.of("peak")[place], rel=1e-3)
            own = stored.scores.map_of(image.key)
            assert own is not None
            assert not own[~MASK.reshape(-1)].any()
            assert own[MASK.reshape(-1)].all()


def test_a_calibration_belongs_to_its_region(path: Path) -> None:
    with GalleryWriter(path) as writer:
        region = writer.gallery.interest
        store(writer, SEARCH, calibrate(writer.gallery, SEARCH))
        assert stored_calibration(writer.gallery, SEARCH) is not None
        for other in (RegionOfInterest(~MASK, "test"), None):
            writer.set_interest(other)
            assert stored_calibration(writer.gallery, SEARCH) is None
        assert writer.gallery.calibration_key(SEARCH) == SEARCH.calibration_key()  # as before there were regions
        writer.set_interest(region)
        assert stored_calibration(writer.gallery, SEARCH) is not None


def test_defects_are_pasted_inside(path: Path, tiny: Backbone) -> None:
    with Gallery(path) as gallery:
        sample = draw_sample(gallery, tiny, 60)
    assert len(sample.masks) > 40
    marked = sample.masks.any(0)  # [32, 32]
    assert marked.any()
    inside = np.kron(MASK, np.ones((4, 4), bool))
    assert not (marked & ~ndimage.binary_dilation(inside)).any()  # images are resized


@pytest.mark.parametrize("seed", range(12))
def test_a_pasted_defect_changes_pixels_inside_alone(seed: int) -> None:
    image, other = (np.asarray(random_image(number, (80, 60))) for number in (seed, 100 + seed))
    inside = np.zeros((60, 80), bool)
    inside[20:50, 10:40] = True
    made = paste(image, other, (seed,), inside)
    assert made is not None
    assert made.mask[inside].any()
    assert not made.mask[~inside].any()
    np.testing.assert_array_equal(made.pixels[~inside], image[~inside])


@pytest.mark.parametrize("top_share", [0.003, 0.03])
def test_trials_measure_by_definition(path: Path, tiny: Backbone, top_share: float) -> None:
    search = SearchSettings(gallery_neighbours=5, scaling="length")
    with Gallery(path) as gallery:
        sample = draw_sample(gallery, tiny, 60)
        tried = Trials(gallery, sample)
        trials = tried.run(search)
        plain = next(t for t in trials if not needs_own_scores(t.search) and t.search.top_share == top_share)
        detector = Detector(gallery, search=plain.search)
        scores = []
        for number, neighbours in enumerate(tried._neighbours):
            if number < len(sample.plain):
                pyramid = [torch.from_numpy(level).float() for level in gallery.maps([sample.plain[number].key])]
            else:
                pyramid = [level[[number - len(sample.plain)]].float() for level in sample.pyramid]
            (found,) = detector.nearest_pixels(pyramid, [neighbours])
            scores.append(found.score)
    labels = np.arange(len(scores)) >= len(sample.plain)
    assert plain.image_roc_auc == pytest.approx(roc_auc(labels, scores), abs=0.02)
    assert {trial.search.mapped_score for trial in trials} == {"map"}


def test_tuning_ends_with_a_gallery_that_judges_inside(path: Path, tiny: Backbone) -> None:
    with GalleryWriter(path) as writer:
        tune_and_calibrate(writer, tiny, seconds=2)
        assert writer.gallery.catalog.tuned() is not None
        search = tuned_search(writer.gallery)
        assert search.effective_image_score == "map"
        assert Detector(writer.gallery).normal_scores is not None
        assert audit(writer.gallery).kind == "map"
        kept = false_alarms_kept(writer.gallery, search, 3)
    assert all(0 <= one.mean <= 1 for one in kept)


def test_the_threshold_of_otsu_splits_two_groups() -> None:
    random = np.random.default_rng(1)
    values = np.concatenate([random.normal(10, 2, 500), random.normal(60, 5, 300)])
    assert 18 < otsu(values) < 42


def test_a_foreground_needs_images_and_whole_ones(path: Path, tiny: Backbone, tmp_path: Path) -> None:
    with Gallery(path) as gallery, pytest.raises(InputError, match="no clear foreground"):
        foreground(gallery)
    build(tmp_path / "two", write_images(tmp_path / "few", 2), tiny)
    with Gallery(tmp_path / "two") as gallery, pytest.raises(InputError, match="2 images are too few"):
        foreground(gallery)
