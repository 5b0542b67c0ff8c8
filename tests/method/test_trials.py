"""Trials of ways of comparing: what they measure, and how they weigh levels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.method.by_neighbours import needs_own_scores
from spade_index.method.detector import Detector
from spade_index.method.metrics import roc_auc
from spade_index.method.synthetic import draw_sample
from spade_index.method.trials import Trials, deviation
from spade_index.settings import SearchSettings

from helpers.tiny import build, tiny_backbone, write_images


@pytest.fixture(scope="module")
def tiny() -> Backbone:
    return tiny_backbone()


@pytest.fixture(scope="module")
def path(tiny: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trials")
    build(folder / "gallery", write_images(folder / "images", 24), tiny)
    return folder / "gallery"


def test_trials_measure_by_definition(path: Path, tiny: Backbone) -> None:
    search = SearchSettings(gallery_neighbours=5, scaling="length")
    with Gallery(path) as gallery:
        sample = draw_sample(gallery, tiny, 60)
        trials = Trials(gallery, sample).run(search)
        plain = next(
            trial
            for trial in trials
            if (trial.search.top_share, trial.search.mapped_score) == (0.01, "map")
            and not needs_own_scores(trial.search)
        )
        detector = Detector(gallery, search=plain.search)
        scores = []
        tried = Trials(gallery, sample)
        for number, neighbours in enumerate(tried._neighbours):
            if number < len(sample.plain):
                pyramid = [torch.from_numpy(level).float() for level in gallery.maps([sample.plain[number].key])]
            else:
                copy = number - len(sample.plain)
                pyramid = [level[copy : copy + 1].float() for level in sample.pyramid]
            (found,) = detector.nearest_pixels(pyramid, [neighbours])
            scores.append(found.score)
    labels = np.arange(len(scores)) >= len(sample.plain)
    assert plain.image_roc_auc == pytest.approx(roc_auc(labels, scores), abs=0.02)
    assert plain.wins.sum() / (len(sample.plain) * len(sample.owner)) == pytest.approx(plain.image_roc_auc)
    assert {trial.search.scaling for trial in trials} == {"length"}
    assert all(0 <= trial.pixel_roc_auc <= 1 for trial in trials)


def test_levels_weigh_the_inverse_of_what_good_images_differ_in_them(path: Path, tiny: Backbone) -> None:
    with Gallery(path) as gallery:
        trials = Trials(gallery, draw_sample(gallery, tiny, 60))
        weights = trials.weighed(SearchSettings(scaling="none")).level_weights
        for level, weight in enumerate(weights):
            detector = Detector(gallery, search=SearchSettings(compared_levels=(level,), level_weights="equal"))
            means = []
            for row in gallery.sample(60):
                pyramid = [torch.from_numpy(values).float() for values in gallery.maps([row.key])]
                (near,) = detector.nearest_images(gallery.pooled([row]), without=[row.key])
                (found,) = detector.search_pixels(detector.comparison.prepare(pyramid), [near[:10]])
                means.append(float(found.distances.mean()))
            assert weight == pytest.approx(1 / np.median(means), rel=0.25)  # of up to 20 of these images
        lengths = trials.weighed(SearchSettings(scaling="length")).level_weights
        assert min(weights + lengths) > 0
        assert lengths != weights


def test_levels_of_images_that_are_nearly_the_same_have_weights(tiny: Backbone, tmp_path: Path) -> None:
    """Next to nothing differs between them, so no level counts infinitely more than another."""
    images = write_images(tmp_path / "images", 24)
    pixels = np.asarray(Image.open(images / "000.png")).copy()
    for number in range(24):
        pixels[0, number] ^= 1
        Image.fromarray(pixels).save(images / f"{number:03d}.png")
    build(tmp_path / "gallery", images, tiny)
    with Gallery(tmp_path / "gallery") as gallery:
        trials = Trials(gallery, draw_sample(gallery, tiny, 60))
        weights = trials.weighed(SearchSettings(scaling="length")).level_weights
    assert weights == pytest.approx((1000,) * 3)


def test_a_difference_has_an_error_where_few_images_have_copies() -> None:
    difference = np.random.default_rng(0).normal(size=(11, 11)) * (np.arange(11) == 3)
    assert 0 < deviation(difference, np.array([3, 3])) < 10
