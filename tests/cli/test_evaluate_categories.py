"""`evaluate` of several categories: means, failures that end nothing else, and carrying on."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from spade_index.cli.evaluating import Evaluator

from helpers.cli_runs import BACKBONE, copied, refused, run


@pytest.fixture
def categories(dataset, built, tmp_path):
    """A folder of two categories, a note, and a folder of their galleries."""
    for name in ("a", "b"):
        shutil.copytree(dataset, tmp_path / "root" / name)
        copied(built, tmp_path / "galleries" / name)
    (tmp_path / "root" / "notes").mkdir()
    return tmp_path / "root"


def test_a_folder_of_categories_gives_a_table_with_means(categories, tmp_path):
    files = ["--json", tmp_path / "all.json", "--report", tmp_path / "page.html"]
    result = run("evaluate", categories, "--gallery", tmp_path / "galleries", *files)
    assert result.stderr == "no categories, passed over: notes\n"
    together = json.loads((tmp_path / "all.json").read_text(), parse_constant=pytest.fail)
    assert set(together["categories"]) == {"a", "b"}
    assert together["layout"] == "mvtec-ad"
    assert together["mean"]["categories"] == 2
    for name in ("image_roc_auc", "image_f1_max", "pixel_average_precision", "pro", "pro_05"):
        values = [of[name] for of in together["categories"].values()]
        assert together["mean"][name] == pytest.approx(sum(values) / 2)
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines() if line.strip()}
    assert len(rows["a"]) == len(rows["mean"])
    assert rows["mean"][1] == "12"
    assert "mean" in (tmp_path / "page.html").read_text()
    assert "hole" in (tmp_path / "page.a.html").read_text()
    assert not (tmp_path / "all.json.part").exists()


def test_an_image_of_a_category_that_cannot_be_decoded_fails_the_command(categories, tmp_path):
    broken = categories / "b" / "test" / "good" / "001.png"
    broken.write_bytes(b"")
    command = ["evaluate", categories, "--gallery", tmp_path / "galleries", "--json", tmp_path / "all.json"]
    result = run(*command, status=1)
    assert "mean" in result.stdout
    assert result.stderr.splitlines()[-1] == "spade-index: 1 of the images could not be decoded"
    figures = json.loads((tmp_path / "all.json").read_text())["categories"]
    assert figures["a"]["not_decoded"] == {"count": 0, "images": []}
    (named,) = figures["b"]["not_decoded"]["images"]
    assert named.startswith("b/test/good/001.png: ")


@pytest.mark.parametrize("ends", ["error", "interrupt"])
def test_an_interrupted_evaluation_is_carried_on(categories, tmp_path, monkeypatch, ends):
    command = ["evaluate", categories, "--gallery", tmp_path / "galleries", "--json", tmp_path / "all.json"]
    if ends == "error":
        (tmp_path / "galleries" / "b").rename(tmp_path / "elsewhere")
        result = run(*command, status=1)
        assert str(Path("galleries", "b")) in result.stderr
        assert "could not be evaluated: b; " in result.stderr.splitlines()[-1]
        assert "mean" in result.stdout
        (tmp_path / "elsewhere").rename(tmp_path / "galleries" / "b")
    else:
        with monkeypatch.context() as patch:
            interrupt(patch, "b")
            run(*command, status=130)
    assert not (tmp_path / "all.json").exists()
    done: list[str] = []
    figures = Evaluator.figures

    def watched(self, dataset, *arguments):
        done.append(dataset.name)
        return figures(self, dataset, *arguments)

    monkeypatch.setattr(Evaluator, "figures", watched)
    result = run(*command)
    assert done == ["b"]
    assert "carrying on: 1 of 2 categories are in" in result.stderr
    together = json.loads((tmp_path / "all.json").read_text())
    assert set(together["categories"]) == {"a", "b"}
    run(*command)
    assert done == ["b", "a", "b"]  # all was done: it starts anew


def interrupt(patch: pytest.MonkeyPatch, category: str) -> None:
    """Let Ctrl-C come when a category begins."""
    figures = Evaluator.figures

    def interrupted(self, dataset, *arguments):
        if dataset.name == category:
            raise KeyboardInterrupt
        return figures(self, dataset, *arguments)

    patch.setattr(Evaluator, "figures", interrupted)


def test_a_category_that_fails_ends_nothing_but_itself(categories, tmp_path):
    (tmp_path / "galleries" / "a").rename(tmp_path / "elsewhere")
    result = run("evaluate", categories, "--gallery", tmp_path / "galleries", status=1)
    assert "b  " in result.stdout
    assert "could not be evaluated: a" in result.stderr.splitlines()[-1]
    (tmp_path / "galleries" / "b").rename(tmp_path / "elsewhere-too")
    result = run("evaluate", categories, "--gallery", tmp_path / "galleries", status=1)
    assert "none of the 2 categories" in result.stderr.splitlines()[-1]


def test_a_table_may_call_its_objects_anything(dataset, tmp_path):
    rows = ["image,label,split,object"]
    splits = (("train/good", "good", "train"), ("test/good", "good", ""), ("test/hole", "x", ""))
    for name in ("../../a", "b/c", "ü" * 200):
        for folder, label, split in splits:
            rows += [f"{path},{label},{split},{name}" for path in (dataset / folder).iterdir()]
    (tmp_path / "all.csv").write_text("\n".join(rows))
    out = tmp_path / "made" / "here"
    out.mkdir(parents=True)
    files = ["--maps", out / "maps", "--report", out / "page.html", "--json", out / "all.json"]
    run("evaluate", tmp_path / "all.csv", *BACKBONE, "--no-tune", *files)
    assert set(json.loads((out / "all.json").read_text())["categories"]) == {"../../a", "b/c", "ü" * 200}
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["here"]
    assert len(list(out.glob("page.*.html"))) == 3


def no_good(category):
    shutil.rmtree(category / "test" / "good")


def no_mask(category):
    next((category / "ground_truth" / "hole").iterdir()).unlink()


def mask_of_another_size(category):
    Image.new("L", (9, 9)).save(next((category / "ground_truth" / "hole").iterdir()))


@pytest.mark.parametrize("ruin", [no_good, no_mask, mask_of_another_size])
def test_a_category_that_cannot_be_read_ends_nothing_but_itself(categories, tmp_path, ruin):
    ruin(categories / "a")
    command = ["evaluate", categories, "--gallery", tmp_path / "galleries", "--json", tmp_path / "all.json"]
    result = run(*command, status=1)
    assert "b  " in result.stdout
    assert any(line.startswith("a: ") for line in result.stderr.splitlines())
    assert "could not be evaluated: a" in result.stderr.splitlines()[-1]
    ruin(categories / "b")
    assert "in the layout" in (line := refused(*command)) or "mask" in line


@pytest.mark.parametrize("change", ["options", "images", "damage", "format"])
def test_figures_of_other_options_or_images_are_not_used(categories, tmp_path, monkeypatch, change):
    command = ["evaluate", categories, "--gallery", tmp_path / "galleries", "--json", tmp_path / "all.json"]
    (tmp_path / "galleries" / "b").rename(tmp_path / "elsewhere")
    run(*command, status=1)
    (tmp_path / "elsewhere").rename(tmp_path / "galleries" / "b")
    if change == "options":
        command += ["--smoothing", "1"]
    elif change == "images":
        (categories / "a" / "test" / "good" / "000.png").unlink()
    elif change == "format":
        content = json.loads((tmp_path / "all.json.part").read_text())
        del content["format"]
        (tmp_path / "all.json.part").write_text(json.dumps(content))
    else:
        (tmp_path / "all.json.part").write_text('{"options": 1, "categories"')
    done: list[str] = []
    figures = Evaluator.figures
    monkeypatch.setattr(Evaluator, "figures", lambda self, *of: (done.append(of[0].name), figures(self, *of))[1])
    run(*command)
    assert done == ["a", "b"]
