"""Random splits of a gallery: how often new images are called anomalous, as real smaller galleries would find it."""

from pathlib import Path

import numpy as np
import pytest

from spade_index.errors import InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images.decode import load
from spade_index.images.find import find_images
from spade_index.method import splits
from spade_index.method.calibration import calibrate, store
from spade_index.method.detector import Detector
from spade_index.method.splits import RATES, SHARE, false_alarms_kept
from spade_index.settings import SearchSettings

from helpers.tiny import build, write_images

SEARCH = SearchSettings(
    score_neighbours=2,
    gallery_neighbours=3,
    scaling="length",
    subtract_neighbours=0.5,
    relative_score=True,
    smoothing=1.0,
    mapped_score="map",
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, backbone: Backbone) -> Path:
    """A gallery of 120 images."""
    folder = tmp_path_factory.mktemp("splits")
    build(folder / "gallery", write_images(folder / "images", 120), backbone)
    return folder / "gallery"


def test_a_split_finds_what_a_gallery_of_its_images_finds(tmp_path: Path, backbone: Backbone) -> None:
    images = write_images(tmp_path / "images", 80)
    build(tmp_path / "all", images, backbone)
    told: list[int] = []
    with Gallery(tmp_path / "all") as gallery:
        found = false_alarms_kept(gallery, SEARCH, 1, progress=told.append)
        names = [row.id for row in gallery.sample(1000)]
    inside = np.random.default_rng(0).permutation(80) < SHARE * 80
    files = {file.id: file for file in find_images(images)}
    with GalleryWriter(tmp_path / "part", backbone.settings) as writer:
        writer.add([files[name] for name, is_inside in zip(names, inside, strict=True) if is_inside], backbone)
        store(writer, SEARCH, calibrate(writer.gallery, SEARCH))
    with Gallery(tmp_path / "part") as gallery:
        detector = Detector(gallery, backbone, SEARCH)
        new = [files[name] for name, is_inside in zip(names, inside, strict=True) if not is_inside]
        p_values = [detector.detect([load(file, backbone.settings.preprocessing)])[0].p_value for file in new]
    assert [kept.asked for kept in found] == list(RATES)
    assert [kept.mean for kept in found] == [np.mean([p <= rate for p in p_values if p is not None]) for rate in RATES]
    assert told == [1]


def test_the_rate_is_kept_on_average(path: Path) -> None:
    with Gallery(path) as gallery:
        for kept in false_alarms_kept(gallery, SEARCH, 10):
            assert kept.mean == pytest.approx(kept.asked, abs=0.35 * kept.asked + 0.005)
            assert kept.deviation > 0


def test_a_sample_of_many_images_is_split(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most neighbours of a sampled image are no sampled images then."""
    monkeypatch.setattr(splits, "CALIBRATION_SAMPLE", 20)
    with Gallery(path) as gallery:
        found = false_alarms_kept(gallery, SEARCH, 5)
    assert all(0 <= kept.mean <= 0.5 for kept in found)


def test_too_few_images_are_refused(gallery_path: Path) -> None:
    with Gallery(gallery_path) as gallery, pytest.raises(InputError, match="too few"):
        false_alarms_kept(gallery, SEARCH, 1)
