"""Drift of scores and brightness: told from chance at the stated rate, whatever the size of the calibration."""

import numpy as np
import pytest

from spade_index.gallery import Gallery
from spade_index.images import find_images
from spade_index.images.decode import load
from spade_index.method.drift import FALSE_WARNINGS, brightness_of, drift_of, normal_brightness, rank_of, ranks_among
from spade_index.settings import Preprocessing

from helpers.tiny import INPUT, build, tiny_backbone, write_images


@pytest.mark.parametrize("normal", [30, 400])
def test_false_warnings_are_as_rare_as_stated(normal: int) -> None:
    rng = np.random.default_rng(0)
    windows = 4000
    warned = 0
    for _ in range(windows):
        ranks = ranks_among(rng.normal(size=100).tolist(), rng.normal(size=normal))
        warned += drift_of(ranks, normal).warns
    assert warned <= windows * FALSE_WARNINGS  # which allows for both quantities; this is one


def test_a_shift_of_most_of_a_deviation_is_warned_of_and_few_images_are_not() -> None:
    rng = np.random.default_rng(1)
    normal, shifted = rng.normal(size=200), (rng.normal(size=100) + 0.7).tolist()
    drift = drift_of(ranks_among(shifted, normal), 200)
    assert drift.warns
    assert 0.6 < drift.mean_rank < 0.8
    assert sum(drift.bins) == drift.images == 100
    assert not drift_of(ranks_among([9.0] * 10, normal), 200).warns
    assert drift_of(ranks_among([9.0] * 40, normal), 200).warns


def test_ranks_are_shares_of_normal_images_that_are_below() -> None:
    normal = np.array([3.0, 1, 2, 4])
    assert ranks_among([0, 2.5, 9], normal) == [0, 0.5, 1]
    assert ranks_among([2], normal) == [(1 + 0.5) / 4]
    for below in range(5):
        assert rank_of((1 + 4 - below) / 5, 4) == pytest.approx(below / 4)


@pytest.mark.parametrize("resize", [None, 40])
def test_brightness_of_a_gallery_is_that_of_what_the_backbone_sees(tmp_path, resize) -> None:
    images = write_images(tmp_path / "images", 12)
    build(tmp_path / "gallery", images, tiny_backbone())
    how = Preprocessing(input_size=(INPUT, INPUT), resize=resize)
    with Gallery(tmp_path / "gallery") as gallery:
        object.__setattr__(gallery.settings, "preprocessing", how)
        keys = np.array([row.key for row in gallery.sample(12)])
        found = normal_brightness(gallery, np.sort(keys))
    seen = [brightness_of(load(file, how).pixels) for file in find_images(images)]
    assert found == pytest.approx(seen, abs=2)  # of 255: thumbnails are JPEGs
