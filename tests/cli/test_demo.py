"""The demonstration needs no input, and its files work with the other commands."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spade_index.cli import demonstration as demo
from spade_index.method.dataset import find_test_images
from spade_index.settings import SearchSettings

from helpers.cli_runs import objects, refused, run


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the demonstration with fewer images and neighbours; return its folder."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "NORMAL", 12)
        patch.setattr(demo, "TEST", 2)
        patch.setattr(demo, "SEARCH", SearchSettings(gallery_neighbours=4))
        result = run("demo", "--out", folder)
    assert result.stderr == ""
    assert str(folder / "report.html") in result.stdout
    return folder


def test_demo_finds_the_drawn_defects(out):
    figures = json.loads((out / "figures.json").read_text())
    assert set(figures) == set(demo.TEXTURES)
    for of in figures.values():
        assert set(of["kinds"]) == set(demo.DEFECTS)
        assert of["image_roc_auc"] > 0.6
        assert of["pixel_roc_auc"] > 0.7


def test_demo_writes_a_page_and_a_picture(out):
    page = (out / "report.html").read_text()
    assert all(name in page for name in (*demo.TEXTURES, *demo.DEFECTS))
    with Image.open(out / "demo.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 500


def test_demo_galleries_can_be_queried(out):
    texture = demo.TEXTURES[0]
    image = out / "data" / texture / "test" / "scratch" / "000.png"
    (answer,) = objects(run("query", out / "galleries" / texture, image, "--json"))
    assert answer["score"] > 0
    assert len(run("list", out / "galleries" / texture).stdout.splitlines()) == 12


def test_demo_datasets_are_complete_and_reproducible(out, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "NORMAL", 12)
    monkeypatch.setattr(demo, "TEST", 2)
    first = out / "data" / demo.TEXTURES[0]
    demo.make_dataset(tmp_path / "again", demo.TEXTURES[0])
    files = sorted(path.relative_to(first) for path in first.rglob("*.png"))
    assert files == sorted(path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*.png"))
    assert all((first / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files)
    for image in find_test_images(first):
        if image.mask is not None:
            mask = np.asarray(Image.open(image.mask))
            assert mask.shape == (demo.EDGE, demo.EDGE)
            assert 0 < (mask >= 128).mean() < 0.3


def test_without_scikit_image_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "spade_index.cli.demonstration")
    monkeypatch.delitem(sys.modules, "skimage.data")
    monkeypatch.setitem(sys.modules, "skimage", None)
    assert "pip install scikit-image" in refused("demo", "--out", tmp_path / "out")
