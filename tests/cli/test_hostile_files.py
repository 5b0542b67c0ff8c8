"""Hostile files among good ones: the command names them, and takes all others."""

import json
import os
import shutil
from pathlib import Path

import pytest

from spade_index.images.workers import limit_decoding
from spade_index.settings import DecodeLimits

from helpers.cli_runs import BACKBONE, objects, run, write_normal
from helpers.hostile_images import flat_png, slow_bmp

LIMITS = ["--decode-memory", "64", "--decode-seconds", "1"]
COSTLY = {
    "bomb.png": "decoding it takes more than 64 MiB of memory",
    "slow.bmp": "decoding it takes more than 1 seconds",
    "not.jpg": "cannot be decoded (not an image)",
}


@pytest.fixture(autouse=True)
def usual_limits():
    yield
    limit_decoding(DecodeLimits())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write_normal(tmp_path / "images", 24)
    (folder / "bomb.png").write_bytes(flat_png(6000))
    (folder / "slow.bmp").write_bytes(slow_bmp())
    (folder / "not.jpg").write_bytes(b"no image")
    return folder


def test_build_takes_the_others(folder: Path, tmp_path: Path) -> None:
    result = run("build", folder, tmp_path / "gallery", *BACKBONE, *LIMITS, "--no-tune")
    assert "24 added, 3 could not be decoded" in result.stdout
    skipped = [line for line in result.stderr.splitlines() if "skipped" in line]
    assert sorted(skipped) == sorted(f"skipped {folder / name}: {why}" for name, why in COSTLY.items())


def test_query_answers_the_others(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "good", ignore=lambda _, names: [name for name in names if name in COSTLY])
    run("build", tmp_path / "good", tmp_path / "gallery", *BACKBONE, "--no-tune")
    options = ["--workers", "1", *LIMITS, "--json"]
    result = run("query", tmp_path / "gallery", folder, *options, "--out", tmp_path / "out", status=1)
    assert len(objects(result)) == 24
    assert "3 of the images could not be decoded" in result.stderr


def test_an_archive_that_expands_is_read_without_its_hostile_member(tmp_path: Path) -> None:
    folder = write_normal(tmp_path / "images", 4)
    (folder / "bomb.bmp").write_bytes(b"BM" + bytes(300 << 20))
    shutil.make_archive(str(tmp_path / "archive"), "gztar", folder)
    assert (tmp_path / "archive.tar.gz").stat().st_size < 1 << 20
    result = run("build", tmp_path / "archive.tar.gz", tmp_path / "gallery", *BACKBONE, *LIMITS, "--no-tune")
    assert "4 added, 1 could not be decoded" in result.stdout


def test_a_mask_that_costs_too_much_is_named(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    for kind, images in (("train/good", 4), ("test/good", 2), ("test/hole", 1)):
        write_normal(root / kind, images)
    flat = flat_png(6000)
    (root / "test" / "hole" / "000.png").write_bytes(flat)
    (root / "ground_truth" / "hole").mkdir(parents=True)
    (root / "ground_truth" / "hole" / "000_mask.png").write_bytes(flat)
    result = run("evaluate", root, *BACKBONE, *LIMITS, "--no-tune", status=1)
    assert "decoding it takes more than 64 MiB of memory" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("option", ["--decode-memory=63", "--decode-seconds=0", "--decode-seconds=nan"])
def test_a_limit_out_of_range_is_a_usage_error(tmp_path: Path, option: str) -> None:
    result = run("build", tmp_path, tmp_path / "gallery", option, status=2)
    assert option.partition("=")[0] in result.stderr
    assert not os.path.exists(tmp_path / "gallery")
    assert json.dumps(option)
