"""Outputs of an earlier run in the same folder, and outputs that a full disk, or a system, refuses."""

import os
import tempfile
from pathlib import Path

import pytest

from spade_index.cli import outputs

from helpers.cli_runs import BACKBONE, copied, refused, run


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_files_of_an_earlier_query_are_said(built: Path, dataset: Path, tmp_path: Path) -> None:
    out, test = tmp_path / "out", dataset / "test"
    run("query", built, test, "--out", out, "--threshold", 0)
    (out / "heatmaps" / "mine.png").write_bytes(b"x")
    found = run("query", built, test / "good", test / "hole" / "000.png", "--out", out, "--maps", "always")
    assert f"{out}: has 6 other images of earlier queries, too (good/000.png, good/001.png, good/002.png, ...)" in (
        found.stderr
    )
    assert (out / "score_maps" / "good" / "000.png.npy").exists()
    assert "earlier" not in run("query", built, test, "--out", tmp_path / "new").stderr


def test_regions_of_an_earlier_query_do_not_stay_beside_new_maps(dataset: Path, tmp_path: Path) -> None:
    plain, out, good = tmp_path / "g", tmp_path / "out", dataset / "test" / "good"
    run("build", dataset / "train" / "good", plain, *BACKBONE, "--no-tune")
    run("calibrate", copied(plain, tmp_path / "calibrated"), "--false-alarms", 0.1)
    run("query", tmp_path / "calibrated", good, "--out", out)
    assert names(out / "masks") == ["000.png.mask.png", "001.png.mask.png", "002.png.mask.png"]
    (out / "masks" / "002.png.mask.png").write_bytes(b"mine")
    found = run("query", plain, good, "--out", out)
    assert f"{out / 'regions.coco.json'}: is of an earlier query" in found.stderr
    assert names(out / "masks") == ["002.png.mask.png"]


def test_maps_of_an_earlier_evaluation_are_said(built: Path, dataset: Path, tmp_path: Path) -> None:
    arguments = ("evaluate", dataset, "--gallery", built, "--maps", tmp_path)
    assert "earlier" not in run(*arguments).stderr
    found = run(*arguments, "--exclude", "test/hole/000.png").stderr
    assert f"{tmp_path / 'anomaly_images' / 'dataset'}: has 1 maps of earlier runs, too (test/hole/000)" in found


@pytest.mark.parametrize("output", [["--out", "out"], ["--csv", "x.csv"], ["--coco", "x.json"]], ids=" ".join)
def test_a_folder_that_takes_no_file_is_named_at_once(
    built: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: list[str]
) -> None:
    """Permissions do not tell of all systems, as those that are read from far away."""

    def refuse(**options: object) -> None:
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr(outputs.tempfile, "TemporaryFile", refuse)
    line = refused("query", built, dataset / "test", output[0], tmp_path / output[1])
    assert "Read-only file system" in line
    assert str(tmp_path) in line
    assert not (tmp_path / output[1]).exists()


def test_a_check_leaves_nothing(tmp_path: Path) -> None:
    outputs.require_writable([tmp_path / "x.csv"], [tmp_path / "out"])
    assert tempfile.gettempdir()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--csv", "--jsonl", "--coco"])
def test_a_full_disk_names_the_file(built: Path, dataset: Path, option: str) -> None:
    assert refused_after_answers("query", built, dataset / "test", option, "/dev/full").startswith(
        "/dev/full: No space left"
    )


def test_regions_of_a_query_that_fails_are_no_file(built: Path, dataset: Path, tmp_path: Path) -> None:
    """It would look as if it were complete, and an earlier one would be gone."""
    (tmp_path / "x.json").write_text("of an earlier query")
    refused_after_answers("query", built, dataset / "test", "--coco", tmp_path / "x.json", "--csv", "/dev/full")
    assert (tmp_path / "x.json").read_text() == "of an earlier query"


def refused_after_answers(*arguments: object) -> str:
    return run(*arguments, status=1).stderr.splitlines()[-1].removeprefix("spade-index: ")
