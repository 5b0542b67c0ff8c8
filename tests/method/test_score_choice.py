"""How scores are made of distances is chosen by the hits at shares of false alarms, as calibration defines them."""

import math
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images.find import find_images
from spade_index.images.interest import RegionOfInterest
from spade_index.method import alone as method_alone
from spade_index.method import scorings
from spade_index.method.alone import Alone, Beside, near_distance, search_alone
from spade_index.method.by_neighbours import plain_search
from spade_index.method.calibration import calibrate
from spade_index.method.detection import Question
from spade_index.method.detector import Detector
from spade_index.method.normal_scores import NormalScores, Stored
from spade_index.method.score_choice import RATES, choose_scores
from spade_index.method.siblings import others, place_of_row
from spade_index.method.synthetic import draw_sample
from spade_index.settings import SearchSettings

from helpers.tiled import tiled_settings
from helpers.tiny import TinyCNN, build, tiny_backbone, write_images

SEARCH = SearchSettings(gallery_neighbours=5, scaling="length")


def test_hits_are_those_of_the_calibration_that_follows(tmp_path: Path) -> None:
    tiny = tiny_backbone()
    build(tmp_path / "gallery", write_images(tmp_path / "images", 24), tiny)
    with Gallery(tmp_path / "gallery") as gallery:
        sample = draw_sample(gallery, tiny, 60)
        chosen, alone = choose_scores(gallery, sample, SEARCH, 60)
        assert chosen is not None
        found = calibrate(gallery, chosen.search, searched=alone)
        normal = NormalScores.of_gallery(gallery, found.found, chosen.search)
        detector = Detector(gallery, search=chosen.search, calibrated=Stored(1, 0.05, {}, normal))
        near, scores = near_distance(gallery), []
        for copy, owner in enumerate(sample.owner):
            (nearest,) = gallery.nearest(sample.pooled[[copy]], 24)
            nearest = others(nearest, {sample.plain[owner].key}, near)
            ((_, detection),) = detector.judge(
                [nearest], [level[[copy]].float() for level in sample.pyramid], [Question()]
            )
            scores.append(detection.score)
        thresholds = [normal.threshold(detector.kind, rate) for rate in RATES]
    called = [0.0 if threshold is None else np.mean(np.array(scores) > threshold) for threshold in thresholds]
    assert chosen.hits == pytest.approx(np.mean(called), abs=0.03)
    assert chosen.search.scaling == "length"


@pytest.fixture
def tiled(tmp_path: Path) -> Path:
    """A gallery of 12 pictures in tiles, some of which are outside of its region of interest."""
    backbone = Backbone("tiny-0", TinyCNN(0), tiled_settings().preprocessing, device="cpu", precision="float32")
    mask = np.zeros((3, 12), bool)
    mask[:2, 2:7] = True
    with GalleryWriter(tmp_path / "g", backbone.settings) as writer:
        writer.add(find_images(write_images(tmp_path / "images", 12, size=(120, 90))), backbone)
        writer.set_interest(RegionOfInterest(mask, "test"))
    return tmp_path / "g"


def test_what_was_searched_for_is_not_searched_for_again(tiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Gallery(tiled) as gallery:
        images = gallery.sample(1000)
        detector = Detector(gallery, search=plain_search(SEARCH), calibrated=False)
        alone = search_alone(detector, images, lambda number: number < 11)
        assert len(alone) < len(images)
        anew = calibrate(gallery, SEARCH)
        searched = []
        inner = method_alone._search_without

        def counted(detector: Detector, images: Sequence[Beside]) -> list[Alone]:
            searched.extend(image.key for image, _ in images)
            return inner(detector, images)

        monkeypatch.setattr(method_alone, "_search_without", counted)
        carried = calibrate(gallery, SEARCH, searched=alone)
    assert searched
    assert not {*searched} & {image.key for image in alone}
    np.testing.assert_array_equal(carried.found.keys, anew.found.keys)
    np.testing.assert_array_equal(carried.found.scores["map"], anew.found.scores["map"])


@pytest.mark.parametrize("tiles", [False, True])
def test_score_maps_of_some_queries_are_in_memory(
    request: pytest.FixtureRequest, tiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path: Path = request.getfixturevalue("tiled" if tiles else "gallery_path")
    random = np.random.default_rng(0)
    with Gallery(path) as gallery:
        detector = Detector(gallery, search=SEARCH, calibrated=False)
        rows = gallery.sample(1000)
        plain, copies = [rows[number % len(rows)] for number in range(300)], rows[:5]
        cells, count = math.prod(detector.comparison.size), len(plain) + len(copies)
        found = scorings.Searched(
            distances=random.random((count, cells), np.float32),
            pooled=random.random(count),
            near=[random.integers(0, len(plain), 4) for _ in range(count)],
            masks=random.random((len(copies), 112, 112)) < 0.1,
            places=[place_of_row(gallery, row) for row in (*plain, *copies)],
        )
        figures, memory = [], []
        monkeypatch.setattr(scorings, "SIGMAS", (2.0,))
        monkeypatch.setattr(scorings, "MOST_PIXELS", 10_000)
        for at_once in (count, 16):
            monkeypatch.setattr(scorings, "AT_ONCE", at_once)
            tracemalloc.start()
            tried = list(scorings.scorings(detector, SEARCH, found, known=True))
            memory.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            figures.append([(one.search, one.pixel_roc_auc, one.scores.tolist()) for one in tried])
    assert figures[0] == figures[1]
    assert memory[1] < memory[0] / 3
