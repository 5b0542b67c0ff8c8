"""A gallery of two scales on the command line: `build --tile --whole`, and what follows."""

import json
import shutil
from pathlib import Path

import pytest

from helpers.cli_runs import BACKBONE, objects, refused, run
from helpers.discs import disc

PICTURES = 10  # as few as can be calibrated on
SEARCH = ("--gallery-neighbours", 5, "--window", 1, "--image-score", "map")


def write(folder: Path, name: str, seed: int, **defects: bool) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(disc(name, seed, **defects).read())
    return folder / name


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "pictures"
    for number in range(PICTURES):
        write(folder, f"{number:02}.png", number)
    return folder


@pytest.fixture(scope="module")
def gallery(pictures: Path) -> Path:
    path = pictures.parent / "gallery"
    built = run("build", pictures, path, *BACKBONE, "--tile", 40, "--overlap", 0, "--whole", "--no-tune").stdout
    tiles = json.loads(run("info", path, "--json").stdout)["images"]
    assert built.splitlines()[-1] == f"{PICTURES} added as {tiles} tiles; {tiles} tiles at snapshot 1"
    return path


def test_it_is_built_and_carried_on(pictures: Path, gallery: Path) -> None:
    described = run("info", gallery).stdout
    assert f"tiles of {PICTURES} pictures" in described
    assert "of tiles of 40 pixels, overlap 0, and whole" in described
    assert f"0 added, {PICTURES} already there" in run("build", pictures, gallery, *BACKBONE, "--no-tune").stdout
    assert run("list", gallery).stdout.splitlines() == [f"{number:02}.png" for number in range(PICTURES)]
    ids = run("list", gallery, "--tiles").stdout.splitlines()
    assert [id for id in ids if id.endswith("@whole")] == [f"{number:02}.png@whole" for number in range(PICTURES)]


def test_it_is_queried_and_weighed(gallery: Path, tmp_path: Path) -> None:
    large = write(tmp_path, "large.png", 100, missing=True)
    for weight, wanted in ((0, False), (0.5, True), (1, True)):
        search = (*SEARCH, *(("--whole-weight", weight) if weight != 0.5 else ()))
        run("calibrate", gallery, "--false-alarms", 0.1, *search)
        (answer,) = objects(run("query", gallery, large, "--json", *search, "--out", tmp_path / f"out {weight}"))
        assert answer["anomalous"] == wanted
        assert Path(answer["heatmap"]).exists()
        assert wanted == bool(answer["regions"])


def test_it_is_evaluated(pictures: Path, gallery: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures, tmp_path / "set" / "train" / "good")
    for number in range(2):
        write(tmp_path / "set" / "test" / "good", f"{number}.png", 200 + number)
        write(tmp_path / "set" / "test" / "missing", f"{number}.png", 300 + number, missing=True)
    built = (*BACKBONE, "--tile", 40, "--overlap", 0, "--whole", "--no-tune")
    for options in (built, ("--gallery", gallery, "--whole-weight", 1)):
        run("evaluate", tmp_path / "set", *options, *SEARCH, "--json", tmp_path / "figures.json")
        assert json.loads((tmp_path / "figures.json").read_text())["image_roc_auc"] == 1


def test_what_does_not_go_with_it_is_refused(pictures: Path, gallery: Path, tmp_path: Path) -> None:
    run("build", pictures, tmp_path / "none", *BACKBONE, "--whole", status=2)
    one = write(tmp_path, "one.png", 0)
    run("build", one, tmp_path / "tiled", *BACKBONE, "--tile", 32, "--no-tune")
    assert "was built without --whole" in refused("build", pictures, tmp_path / "tiled", "--whole")
    assert "without --whole" in refused("query", tmp_path / "tiled", pictures, "--whole-weight", 0.25)
    assert "in 0..1" in refused("query", gallery, pictures, "--whole-weight", 1.5)
