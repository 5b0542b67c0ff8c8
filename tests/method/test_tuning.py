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
from spade_index.method import input_size
from spade_index.method.by_neighbours import needs_own_scores
from spade_index.method.contest import choose
from spade_index.method.detector import Detector
from spade_index.method.input_size import choose_input_size
from spade_index.method.judgement import tune_and_calibrate
from spade_index.method.metrics import roc_auc
from spade_index.method.synthetic import LEAST, draw_sample
from spade_index.method.trials import Trial, Trials, deviation
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


def test_trials_measure_by_definition(path: Path, tiny: Backbone) -> None:
    search = SearchSettings(gallery_neighbours=5, scaling="length")
    with Gallery(path) as gallery:
        sample = draw_sample(gallery, tiny, 60)
        trials = Trials(gallery, sample).run(search)
        plain = next(
            trial
            for trial in trials
            if (trial.search.top_share, trial.search.mapped_score) == (0, "map") and not needs_own_scores(trial.search)
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


def trial(auc: float, ms: float, count: int = 24, **search: object) -> Trial:
    return Trial(SearchSettings(**search), auc, auc, 0, ms, np.full((count, count), auc))


def test_a_difference_has_an_error_where_few_images_have_copies() -> None:
    difference = np.random.default_rng(0).normal(size=(11, 11)) * (np.arange(11) == 3)
    assert 0 < deviation(difference, np.array([3, 3])) < 10


def test_the_quickest_of_the_good_ways_is_chosen(path: Path, tiny: Backbone) -> None:
    with Gallery(path) as gallery:
        sample = replace(draw_sample(gallery, tiny, 60), planned_ms=10.0)
    usual = {"subtract_neighbours": 0.5, "relative_score": True, "mapped_score": "map"}
    good, quick, slow = trial(0.9, 10, grid=28, **usual), trial(0.897, 4, grid=14, **usual), trial(0.99, 50, **usual)
    assert choose([[good], [quick], [slow]], sample) is quick
    assert choose([[good], [trial(0.85, 4, **usual)], [slow]], sample) is good
    assert choose([[slow]], sample) is slow
    as_quick = trial(0.9, 8, grid=28, **usual)  # beside the 10 ms of the backbone
    assert choose([[as_quick], [quick]], sample) is as_quick


def test_other_levels_and_fewer_neighbours_must_be_clearly_better(path: Path, tiny: Backbone) -> None:
    with Gallery(path) as gallery:
        sample = replace(draw_sample(gallery, tiny, 60), planned_ms=10.0)
    noise = np.random.default_rng(0).normal(0, 0.2, (24, 24))
    how = {"subtract_neighbours": 0.5, "relative_score": True, "mapped_score": "map", "gallery_neighbours": 20}
    usual = trial(0.8, 8, compared_levels=(1, 2), **how)
    error = deviation(noise, sample.owner)
    for better, chosen in ((1.9 * error, False), (2.1 * error, True)):
        other = trial(0.8 + better, 8, compared_levels=(0, 1, 2), **how)
        other = replace(other, wins=usual.wins + noise)
        assert (choose([[other], [usual]], sample, (1, 2)) is other) == chosen
        fewer = trial(0.8 + better, 4, compared_levels=(1, 2), **how | {"gallery_neighbours": 5})
        fewer = replace(fewer, wins=usual.wins + noise)
        assert (choose([[fewer], [usual]], sample, (1, 2)) is fewer) == chosen


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


@pytest.fixture
def few_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try one way at each input size, on few images."""
    for name, value in {"SAMPLE": 24, "TRIED": 12, "WAYS": 1}.items():
        monkeypatch.setattr(input_size, name, value)


@pytest.mark.usefixtures("few_trials")
def test_the_input_size_is_doubled_only_where_images_have_the_detail(tmp_path: Path, tiny: Backbone) -> None:
    loaded: list[tuple[tuple[int, int], int]] = []

    def load(size: tuple[int, int], grid: int) -> Backbone:
        loaded.append((size, grid))
        return tiny_backbone(size=size[0])

    small = find_images(write_images(tmp_path / "small", 20))
    assert choose_input_size(small, tiny, load, seconds=5).backbone is tiny
    few = find_images(write_images(tmp_path / "few", 5, size=(100, 100)))
    assert choose_input_size(few, tiny, load, seconds=5).backbone is tiny
    assert loaded == []
    large = find_images(write_images(tmp_path / "large", 20, size=(100, 100)))
    chosen = choose_input_size(large, tiny, load, seconds=60)
    assert loaded == [((64, 64), 28)]
    assert "quality" in chosen.why
    assert chosen.backbone.settings.preprocessing.input_size in ((32, 32), (64, 64))


@pytest.mark.usefixtures("few_trials")
@pytest.mark.parametrize(("tile", "looked"), [(40, False), (64, True)])
def test_the_input_size_of_tiles_is_chosen_by_the_detail_in_a_tile(
    tmp_path: Path, tiny: Backbone, tile: int, looked: bool
) -> None:
    def cut(size: int) -> Backbone:
        backbone = tiny_backbone(size=size)
        how = replace(backbone.settings.preprocessing, tile=tile, overlap=0.25)
        backbone.settings = replace(backbone.settings, preprocessing=how)
        return backbone

    loaded: list[tuple[int, int]] = []

    def load(size: tuple[int, int], grid: int) -> Backbone:
        loaded.append(size)
        return cut(size[0])

    pictures = find_images(write_images(tmp_path / "pictures", 3, size=(240, 180)))
    chosen = choose_input_size(pictures, cut(32), load, seconds=60)
    assert loaded == ([(64, 64)] if looked else [])
    assert ("quality" if looked else "the tiles have no more detail") in chosen.why
    assert chosen.backbone.settings.preprocessing.tile == tile
