"""`evaluate`: figures, and the page about them."""

import json

import pytest
from PIL import Image

from helpers.cli_runs import BACKBONE, SIZE, run, write_dataset


def test_evaluate_writes_figures_and_a_page(dataset, tmp_path):
    files = ["--json", tmp_path / "figures.json", "--report", tmp_path / "page.html"]
    result = run("evaluate", dataset, *BACKBONE, *files)
    assert result.stderr == ""
    figures = json.loads((tmp_path / "figures.json").read_text())
    for name in ("image_roc_auc", "pixel_roc_auc", "pro"):
        assert 0.5 < figures[name] <= 1
        assert 0.5 < figures["kinds"]["hole"][name] <= 1
    assert figures["settings"]["backbone"] == "efficientnet-lite0"
    assert figures["seconds"]["search"] > 0
    assert "hole" in result.stdout
    assert "hole" in (tmp_path / "page.html").read_text()


def test_evaluate_with_a_given_gallery_gives_the_same_figures(dataset, built, tmp_path):
    run("evaluate", dataset, *BACKBONE, "--json", tmp_path / "own.json")
    run("evaluate", dataset, "--gallery", built, "--json", tmp_path / "given.json")
    own, given = (json.loads((tmp_path / name).read_text()) for name in ("own.json", "given.json"))
    for name in ("image_roc_auc_by_score", "pixel_roc_auc", "pro", "kinds", "search", "settings"):
        assert own[name] == given[name]


def test_undefined_figures_are_null(built, tmp_path):
    dataset = write_dataset(tmp_path / "dataset")
    for path in (dataset / "ground_truth" / "hole").iterdir():
        Image.new("L", SIZE).save(path)
    run("evaluate", dataset, "--gallery", built, "--json", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text(), parse_constant=pytest.fail)
    assert figures["pro"] is None
    assert figures["image_roc_auc"] > 0.5
