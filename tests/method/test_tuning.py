"""Tuning: what is tried on which images, what is chosen, and what queries do by default from then on."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spade_index.errors import GalleryDamaged, InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import find_images
from spade_index.method import tuning
from spade_index.method.detector import Detector
from spade_index.method.judgement import tune_and_calibrate
from spade_index.method.synthetic import LEAST, Sample, draw_sample
from spade_index.method.trials import Trial, Trials
from spade_index.method.tuned import should_tune_again, tuned_search
from spade_index.method.tuning import store, tune
from spade_index.presets import SearchChoice
from spade_index.settings import SearchSettings

from helpers.tiny import build, tiny_backbone, write_images


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("tuned") / "images", 24)


@pytest.fixture(scope="module")
def tiny() -> Backbone:
    return tiny_backbone()


@pytest.fixture
def path(photographs: Path, tiny: Backbone, tmp_path: Path) -> Path:
    """A gallery of 24 images whose files are there."""
    build(tmp_path / "gallery", photographs, tiny)
    return tmp_path / "gallery"


def test_a_sample_is_the_same_each_time_and_names_its_owners(path: Path, tiny: Backbone) -> None:
    with Gallery(path) as gallery:
        one, again = (draw_sample(gallery, tiny, 60) for _ in range(2))
    assert len(one.plain) == 24
    assert set(one.owner) == set(range(24))
    np.testing.assert_array_equal(one.pooled, again.pooled)
    np.testing.assert_array_equal(one.masks, again.masks)
    assert one.masks.shape[1:] == (32, 32)
    assert one.masks.any((1, 2)).mean() > 0.9


def objects(folder: Path, count: int, textured: int = 0) -> Path:
    """Draw objects anywhere before a plain background; the first few images are of a texture."""
    folder.mkdir()
    for number in range(count):
        random = np.random.default_rng(number)
        pixels = 200 + random.normal(0, 2, (96, 96, 3))
        left, top = random.integers(10, 56, 2)
        pixels[top : top + 30, left : left + 30] = random.integers(20, 120, (30, 30, 3))
        if number < textured:
            pixels = random.integers(0, 256, pixels.shape)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:03}.png")
    return folder


def test_defects_lie_on_objects_before_a_plain_background(tiny: Backbone, tmp_path: Path) -> None:
    build(tmp_path / "gallery", objects(tmp_path / "images", 24), tiny)
    with Gallery(tmp_path / "gallery") as gallery:
        sample = draw_sample(gallery, tiny, 60)
        shown = [np.asarray(Image.open(sample.plain[owner].path).resize((32, 32))) for owner in sample.owner]
    beside = np.stack(shown).mean(3) > 180
    assert sample.masks.any((1, 2)).mean() > 0.9
    assert (sample.masks & beside).sum() < 0.5 * sample.masks.sum()
    assert len(np.unique(np.argwhere(sample.masks)[:, 1:] // 8, axis=0)) > 8  # wherever the objects lie


def test_defects_lie_anywhere_where_some_images_show_no_object(tiny: Backbone, tmp_path: Path) -> None:
    build(tmp_path / "gallery", objects(tmp_path / "images", 24, textured=4), tiny)
    with Gallery(tmp_path / "gallery") as gallery:
        sample = draw_sample(gallery, tiny, 60)
        shown = [np.asarray(Image.open(sample.plain[owner].path).resize((32, 32))) for owner in sample.owner]
    beside = np.stack(shown).mean(3) > 180
    assert (sample.masks & beside).sum() > 0.5 * sample.masks.sum()


def test_a_sample_needs_the_files_as_they_were(path: Path, tiny: Backbone, tmp_path: Path) -> None:
    build(tmp_path / "other", write_images(tmp_path / "gone", 24, seed=1), tiny)
    for file in sorted((tmp_path / "gone").iterdir())[:20]:
        file.unlink()
    with Gallery(tmp_path / "other") as gallery, pytest.raises(InputError, match="only 4 of its images"):
        draw_sample(gallery, tiny, 60)


def test_a_sample_is_smaller_where_images_take_long_to_read(path: Path, tiny: Backbone) -> None:
    with Gallery(path) as gallery:
        few, all_images = (draw_sample(gallery, tiny, seconds).plain for seconds in (0, 60))
        assert len(few) == LEAST < len(all_images)
        assert {row.key for row in few} < {row.key for row in all_images}
        assert few == sorted(few, key=lambda row: row.key)


def test_a_part_of_the_sample_keeps_images_with_their_copies(path: Path, tiny: Backbone) -> None:
    with Gallery(path) as gallery:
        sample = draw_sample(gallery, tiny, 60)
    some = sample.some(11)
    assert len(some.plain) == 11
    assert [some.plain[0], some.plain[-1]] == [sample.plain[0], sample.plain[-1]]
    copies = [copy for copy, owner in enumerate(sample.owner) if sample.plain[owner] in some.plain]
    assert [some.plain[owner] for owner in some.owner] == [sample.plain[sample.owner[copy]] for copy in copies]
    np.testing.assert_array_equal(some.pooled, sample.pooled[copies])
    np.testing.assert_array_equal(some.masks, sample.masks[copies])
    for part, whole in zip(some.pyramid, sample.pyramid, strict=True):
        assert torch.equal(part, whole[copies])


@pytest.mark.parametrize(
    ("aucs", "scales"), [([0.89], [1]), ([0.91, 0.89], [1, 0.5]), ([1, 0.91, 1], [1, 0.5, 0.25])], ids=str
)
def test_defects_that_nearly_all_are_found_become_smaller(
    aucs: list[float], scales: list[float], path: Path, tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[float, float]] = []
    tried: list[int] = []

    def draw(gallery: Gallery, backbone: Backbone, seconds: float, most: int, scale: float) -> Sample:
        drawn.append((scale, seconds))
        tried.append(0)
        return replace(draw_sample(gallery, backbone, seconds, 10, scale), planned_ms=1e3)

    def run(self: Trials, search: SearchSettings) -> list[Trial]:
        tried[-1] += 1
        return [replace(trial, image_roc_auc=aucs[len(drawn) - 1]) for trial in ran(self, search)]

    ran = Trials.run
    monkeypatch.setattr(tuning, "draw_sample", draw)
    monkeypatch.setattr(Trials, "run", run)
    told: list[str] = []
    with Gallery(path) as gallery:
        found = tune(gallery, tiny, seconds=100, progress=told.append)
    assert [scale for scale, _ in drawn] == scales
    assert found.scale == found.record()["scale"] == scales[-1]
    assert [seconds for _, seconds in drawn] == [40, 10, -20][: len(scales)], "thirty copies took a second each"
    assert sum("smaller" in line for line in told) == len(scales) - 1
    assert tried[:-1] == [1] * (len(scales) - 1)
    assert tried[-1] > 1


def test_another_scaling_has_its_own_weights() -> None:
    tuned = SearchSettings(scaling="length", level_weights=(3.0, 2.0, 1.0))
    assert SearchChoice({"window": 2}).settings(tuned).level_weights == (3, 2, 1)
    assert SearchChoice({"scaling": "length"}).settings(tuned).level_weights == (3, 2, 1)
    assert SearchChoice({"scaling": "none"}).settings(tuned).level_weights == "inverse-variance"
    assert SearchChoice({"scaling": "none", "level_weights": (1.0, 1.0, 2.0)}).settings(tuned).level_weights == (
        1,
        1,
        2,
    )


def test_tuning_is_stored_and_queries_use_it(path: Path, tiny: Backbone) -> None:
    told: list[str] = []
    with GalleryWriter(path) as writer:
        assert tuned_search(writer.gallery) == SearchSettings()
        found = tune(writer.gallery, tiny, ways=6, images=12, progress=told.append)
        store(writer, found)
    json.dumps(found.record())
    assert len(told) == len(found.tried) > 5
    assert sum(row["chosen"] for row in found.tried) == 1
    with Gallery(path) as gallery:
        assert tuned_search(gallery) == found.settings
        assert gallery.info()["tuned"]["why"] == found.why
        chosen = SearchChoice({"gallery_neighbours": 7}).settings(tuned_search(gallery))
        assert (chosen.gallery_neighbours, chosen.scaling) == (7, found.settings.scaling)
        assert SearchChoice({}, "paper").settings(tuned_search(gallery)).scaling == "none"
        assert not should_tune_again(gallery)
    with GalleryWriter(path) as writer:
        writer.remove([f"{number:03d}.png" for number in range(6)])
        assert should_tune_again(writer.gallery)


@pytest.mark.parametrize("grown", [0, 2, 8])
def test_images_that_are_stored_otherwise_are_not_new(path: Path, tiny: Backbone, tmp_path: Path, grown: int) -> None:
    more = list(find_images(write_images(tmp_path / "more" / "more", 8, seed=5).parent))
    with GalleryWriter(path) as writer:
        writer.shard_rows = 7
        writer.set_tuned({"search": {}, "images": 24, "snapshot": writer.gallery.snapshot})
        writer.add(more[:grown], tiny)
        writer.compact(maps="int8")
        writer.compact(maps="int4")
        assert should_tune_again(writer.gallery) == (grown == 8)
        writer.remove(["000.png", "001.png", "002.png"])
        assert should_tune_again(writer.gallery) == (grown > 0)


def test_tuning_takes_no_longer_than_it_may(path: Path, tiny: Backbone) -> None:
    with Gallery(path) as gallery:
        assert len(tune(gallery, tiny, seconds=0.01).tried) == 1


def test_a_gallery_is_made_able_to_judge(path: Path, tiny: Backbone) -> None:
    said: list[str] = []
    with GalleryWriter(path) as writer:
        tune_and_calibrate(writer, tiny, seconds=1, say=said.append)
    assert [line.startswith("tuned: ") for line in said] == [True]
    with Gallery(path) as gallery:
        detector = Detector(gallery, tiny)
        assert detector.normal_scores is not None
        assert len(detector.normal_scores) == 24
        assert detector.pixel_threshold is not None
        image = next(gallery.images())
        assert set(detector.thresholds) == {"pooled", "map", "both"}
        assert image.key in detector.normal_scores.keys


def test_tuned_settings_that_cannot_be_read_are_damage(path: Path) -> None:
    with GalleryWriter(path) as writer:
        writer.set_tuned({"search": {"scaling": "nonsense"}, "images": 24, "snapshot": 1})
    with Gallery(path) as gallery, pytest.raises(GalleryDamaged, match="tuned settings"):
        tuned_search(gallery)
