"""The input size that `build` chooses: by the detail of the images, and by small defects."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.images import find_images
from spade_index.method import input_size
from spade_index.method.input_size import choose_input_size

from helpers.tiny import tiny_backbone, write_images


@pytest.fixture(scope="module")
def tiny() -> Backbone:
    return tiny_backbone()


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


@pytest.mark.parametrize(
    ("usual", "doubled", "larger"),
    [(0.70, 0.74, False), (0.70, 0.75, True), (0.95, 0.97, True), (0.98, 0.99, False), (0.80, 0.70, False)],
)
def test_the_larger_size_must_find_small_defects_clearly_better(
    usual: float, doubled: float, larger: bool, tmp_path: Path, tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    qualities, asked = iter((usual, doubled)), []

    def tuned(gallery: Gallery, backbone: Backbone, **options: Any) -> SimpleNamespace:
        asked.append(options)
        return SimpleNamespace(quality=next(qualities), backbone_ms=1.0, pasted=30, sample=10)

    monkeypatch.setattr(input_size, "tune", tuned)
    monkeypatch.setattr(input_size, "_figures", lambda tuning: "")
    images = find_images(write_images(tmp_path / "images", 20, size=(100, 100)))
    chosen = choose_input_size(images, tiny, lambda size, grid: tiny_backbone(size=size[0]), seconds=60)
    assert chosen.backbone.settings.preprocessing.input_size == ((64, 64) if larger else (32, 32))
    assert asked[0] == asked[1], "the same images, ways and defects at both"
    assert asked[0]["scale"] < 1


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
