"""`evaluate`: figures, and the page about them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from spade_index.cli.evaluating import Evaluator
from spade_index.images import find_images
from spade_index.images.marks import OwnOutput
from spade_index.views.files import encode

from helpers.cli_runs import BACKBONE, SIZE, refused, run, write_dataset
from helpers.datasets import write_dataset as write_dataset_of_helpers
from helpers.layouts import as_mvtec_ad_2, as_visa


def test_evaluate_writes_figures_and_a_page(dataset, tmp_path):
    files = ["--json", tmp_path / "figures.json", "--report", tmp_path / "page.html"]
    result = run("evaluate", dataset, *BACKBONE, *files)
    assert result.stderr == "no verdicts, only scores: to tune and calibrate takes 20 images\n"
    figures = json.loads((tmp_path / "figures.json").read_text())
    for name in ("image_roc_auc", "pixel_roc_auc", "pro"):
        assert 0.5 < figures[name] <= 1
        assert 0.5 < figures["kinds"]["hole"][name] <= 1
    assert figures["settings"]["backbone"] == "efficientnet-lite0"
    assert figures["dataset"] == "dataset"
    assert figures["machine"].endswith(" cores")
    assert figures["versions"].keys() >= {"spade-index", "torch", "numpy"}
    assert str(tmp_path.parent) not in json.dumps(figures)  # the same wherever the dataset lies
    assert figures["seconds"]["search"] > 0
    assert "hole" in result.stdout
    page = (tmp_path / "page.html").read_text()
    assert "hole" in page
    assert page.count("<svg") == 4  # scores, ROC of images and of pixels, PRO
    for heading in ("Worst cases: defects", "Worst cases: good images", "Best cases", "Examples"):
        assert f"<h2>{heading}</h2>" in page


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


def test_images_that_cannot_be_decoded_are_counted_and_named_and_fail_the_command(dataset, tmp_path):
    root = Path(shutil.copytree(dataset, tmp_path / "plain"))
    broken = [root / "test" / "hole" / "001.png", root / "train" / "good" / "003.png"]
    for path in broken:
        path.write_bytes(b"no picture")
    files = ["--json", tmp_path / "figures.json", "--report", tmp_path / "page.html"]
    result = run("evaluate", root, *BACKBONE, "--no-tune", *files, status=1)
    assert "hole" in result.stdout
    assert result.stderr.splitlines()[-1] == "spade-index: 2 of the images could not be decoded"
    figures = json.loads((tmp_path / "figures.json").read_text())
    for failed, path in zip((figures["not_decoded"], figures["gallery"]["not_decoded"]), broken, strict=True):
        assert failed["count"] == 1
        assert failed["images"][0].startswith(f"{path.relative_to(root)}: ")
    assert (figures["images"], figures["gallery"]["images"]) == (5, 11)
    assert "Not decoded" in (tmp_path / "page.html").read_text()


def test_pictures_of_this_package_are_left_out_and_fail_nothing(dataset, tmp_path):
    root = Path(shutil.copytree(dataset, tmp_path / "plain"))
    for folder in ("test/good", "train/good"):
        (root / folder / "drawn.png").write_bytes(encode(Image.new("RGB", SIZE), "PNG"))
    result = run("evaluate", root, *BACKBONE, "--no-tune", "--json", tmp_path / "figures.json")
    assert result.stderr.count("drawn.png") == 2
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["not_decoded"]["count"] == figures["gallery"]["not_decoded"]["count"] == 0
    assert (figures["images"], figures["gallery"]["images"]) == (6, 12)


def test_one_category_of_a_root_is_evaluated_by_itself(built, tmp_path):
    as_visa(tmp_path / "VisA", write_dataset_of_helpers(tmp_path / "source"))
    run("evaluate", tmp_path / "VisA", "--gallery", built, "--json", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["category"], figures["layout"], figures["images"]) == ("candle", "visa", 10)


def test_a_layout_can_be_named(dataset, built, tmp_path):
    run("evaluate", dataset, "--gallery", built, "--layout", "mpdd", "--json", tmp_path / "figures.json")
    assert json.loads((tmp_path / "figures.json").read_text())["layout"] == "mpdd"
    line = refused("evaluate", dataset, "--gallery", built, "--layout", "visa")
    assert "looked for visa: Data/Images/Normal" in line


def test_maps_are_written_as_benchmark_servers_take_them(dataset, built, tmp_path):
    source = as_mvtec_ad_2(tmp_path / "can", write_dataset_of_helpers(tmp_path / "source"))
    run("evaluate", source, "--gallery", built, "--maps", tmp_path / "maps", "--json", tmp_path / "figures.json")
    folder = tmp_path / "maps" / "anomaly_images" / "can"
    names = {path.relative_to(source) for path in source.rglob("*.png") if "ground_truth" not in path.parts}
    expected = {name.with_suffix(".tiff") for name in names if name.parts[0].startswith("test_")}
    assert {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()} == expected
    assert Path("test_private_mixed", "000_mixed.tiff") in expected
    for name in expected:
        values = tifffile.imread(folder / name)
        assert values.dtype == np.float16
        assert values.shape == (40, 48)
        assert np.isfinite(values).all()
    bad = tifffile.imread(folder / "test_public" / "bad" / "000_regular.tiff")
    assert bad[8:18, 24:34].max() == bad.max()
    with tifffile.TiffFile(folder / "test_public" / "bad" / "000_regular.tiff") as file:
        assert file.pages[0].tags["Software"].value == "spade-index"  # by which a folder is read without them
    for drawn in find_images(folder):
        with pytest.raises(OwnOutput):
            drawn.read()
    assert json.loads((tmp_path / "figures.json").read_text())["images"] == 10  # those without a label do not count


def test_a_mask_that_does_not_fit_is_named_before_work_begins(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(Evaluator, "figures", lambda *arguments: pytest.fail("it has begun"))
    root = Path(shutil.copytree(dataset, tmp_path / "plain"))
    Image.new("L", (10, 10)).save(root / "ground_truth" / "hole" / "001_mask.png")
    assert "001_mask.png: is 10x10 pixels, but its image is 90x70" in refused("evaluate", root)


def test_what_is_not_used_is_said(dataset, built, tmp_path):
    root = Path(shutil.copytree(dataset, tmp_path / "plain"))
    shutil.copytree(root / "train" / "good", root / "validation" / "good")
    shutil.copytree(root / "test" / "hole", root / "train" / "hole")
    result = run("evaluate", root, "--gallery", built)
    assert result.stderr == "plain: not used: train/hole, validation\n"


def test_what_is_passed_over_is_counted(dataset, built, tmp_path):
    root = Path(shutil.copytree(dataset, tmp_path / "plain"))
    (root / "test" / "hole" / "notes.txt").write_text("a note")
    (root / "test" / "good" / "._000.png").write_text("of the system")
    command = ["evaluate", root, "--gallery", built, "--json", tmp_path / "figures.json"]
    assert "passed over: 1 hidden, 1 with another suffix (.txt 1)" in run(*command).stderr
    assert "notes.txt: with another suffix" in run(*command, "--show-skipped").stderr
    run(*command, "--exclude", "002.png")
    assert json.loads((tmp_path / "figures.json").read_text())["images"] == 4


def test_without_masks_it_says_so(dataset, built, tmp_path):
    shutil.copytree(dataset, tmp_path / "plain", ignore=shutil.ignore_patterns("ground_truth"))
    files = ["--json", tmp_path / "figures.json", "--report", tmp_path / "page.html"]
    result = run("evaluate", tmp_path / "plain", "--gallery", built, *files)
    assert "no figures of pixels: no defective image has a mask" in result.stdout
    figures = json.loads((tmp_path / "figures.json").read_text(), parse_constant=pytest.fail)
    assert figures["pro"] is figures["pixel_f1_max"] is None
    assert (tmp_path / "page.html").read_text().count("<svg") == 2
    assert figures["image_roc_auc"] > 0.5


def test_names_on_the_page_are_escaped(dataset, built, tmp_path):
    evil = "<script>alert(1)<"
    root = Path(shutil.copytree(dataset, tmp_path / f"a{evil}"))
    for part in ("test", "ground_truth"):
        (root / part / "hole").rename(root / part / evil)
    run("evaluate", root, "--gallery", built, "--report", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;" in page


def test_pictures_that_are_cut_into_tiles_are_evaluated_as_wholes(dataset, built, tmp_path):
    cut = ["--tile", min(SIZE) // 2, "--overlap", 0, "--no-tune"]
    run("evaluate", dataset, *BACKBONE, *cut, "--json", tmp_path / "own.json", "--report", tmp_path / "page.html")
    figures = json.loads((tmp_path / "own.json").read_text())
    run("evaluate", dataset, "--gallery", built, "--json", tmp_path / "whole.json")
    whole = json.loads((tmp_path / "whole.json").read_text())
    assert figures["images"] == whole["images"]
    assert figures["gallery"]["images"] > whole["gallery"]["images"]
    assert 0.5 < figures["pixel_roc_auc"] <= 1
    assert figures["settings"]["preprocessing"]["tile"] == min(SIZE) // 2
    assert "Worst cases: defects" in (tmp_path / "page.html").read_text()
