"""The folder that the commands and examples in README.md and docs/ are about."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from helpers.cli_runs import tuned_gallery
from helpers.tiny import random_image, write_images


@pytest.fixture(scope="session")
def _written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    write_images(folder / "good-parts", 20)
    write_images(folder / "more-good-parts", 2, seed=1)
    write_images(folder / "suspects", 2, seed=2)
    random_image(3).save(folder / "suspect.jpg")
    (folder / "outline.json").write_text('{"polygons": [[[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]]]}')
    write_images(folder / "dataset" / "test" / "good", 2, seed=3)
    write_images(folder / "dataset" / "test" / "scratch", 1, seed=4)
    masks = folder / "dataset" / "ground_truth" / "scratch"
    masks.mkdir(parents=True)
    mask = Image.new("L", (40, 36))
    mask.paste(255, (5, 5, 20, 20))
    mask.save(masks / "000_mask.png")
    return folder


@pytest.fixture(scope="session")
def tuned(_written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gallery of the workspace. No test may change it."""
    return tuned_gallery(_written / "good-parts", tmp_path_factory.mktemp("tuned") / "gallery")


@pytest.fixture
def workspace(_written: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: photographs of parts, a dataset in MVTec layout, and a calibrated gallery of good parts."""
    folder = Path(shutil.copytree(_written, tmp_path / "workspace"))
    shutil.copytree(tuned, folder / "gallery")
    monkeypatch.chdir(folder)
    return folder
