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
from spade_index.method.detector import Detector
from spade_index.method.input_size import choose_input_size
from spade_index.method.judgement import tune_and_calibrate
from spade_index.method.synthetic import LEAST, draw_sample
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
