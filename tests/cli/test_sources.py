"""Sources of `build`, `add` and `query`: what is passed over is said, own pictures and removed images stay out."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from helpers.cli_runs import BACKBONE, copied, normal, objects, refused, run, write_normal
from helpers.warm import PROGRAM, ran

FEW = "no verdicts, only scores: to tune and calibrate takes 20 images\n"


def test_what_is_passed_over_is_said_in_one_line(built: Path, tmp_path: Path) -> None:
    folder = write_normal(tmp_path / "images", 2)
    for name in ("notes.md", ".hidden.png", "Thumbs.db"):
        (folder / name).write_bytes(b"x")
    line = "passed over: 1 hidden, 1 left by the system, 1 with another suffix (.md 1) (--show-skipped names them)\n"
    assert run("query", built, folder).stderr == line
    assert run("build", folder, tmp_path / "gallery", *BACKBONE).stderr == line + FEW
    named = run("add", tmp_path / "gallery", folder, "--show-skipped").stderr.splitlines()
    assert named[:3] == [
        f"passed over {folder}/.hidden.png: hidden",
        f"passed over {folder}/Thumbs.db: left by the system",
        f"passed over {folder}/notes.md: with another suffix",
    ]
    assert len(named) == 4


@pytest.mark.parametrize("out", ["images/found", "images/sub/found", "images"])
def test_a_query_repeated_scores_the_same_images(gallery: Path, tmp_path: Path, out: str) -> None:
    folder = write_normal(tmp_path / "images", 2, start=40)
    run("calibrate", gallery)
    query = ["query", gallery, folder, "--false-alarms", 0.1, "--out", tmp_path / out, "--json"]
    answers = [objects(run(*query)) for _ in range(2)]
    assert [[answer["image"] for answer in each] for each in answers] == [["000.png", "001.png"]] * 2
    assert (tmp_path / out / "masks" / "000.png.mask.png").exists()


def test_heat_maps_do_not_become_normal_images(built: Path, tmp_path: Path) -> None:
    folder = write_normal(tmp_path / "images", 2, start=40)
    run("query", built, folder, "--out", tmp_path / "out")
    (tmp_path / "out" / "heatmaps").rename(folder / "yesterday")
    result = run("build", folder, tmp_path / "gallery", *BACKBONE)
    assert "2 added; 2 images" in result.stdout
    assert result.stderr == "passed over: 2 drawn by spade-index (--show-skipped names them)\n" + FEW
    for command in (
        ("build", folder / "yesterday", tmp_path / "other", *BACKBONE),
        ("query", built, folder / "yesterday"),
    ):
        said, error = run(*command, status=1).stderr.splitlines()
        assert "2 drawn by spade-index" in said
        assert "no images" in error


def test_a_heat_map_that_is_named_is_scored_and_said(built: Path, tmp_path: Path) -> None:
    folder = write_normal(tmp_path / "images", 1, start=40)
    run("query", built, folder, "--out", tmp_path / "out")
    path = tmp_path / "out" / "heatmaps" / "000.png.png"
    result = run("query", built, path, "--json")
    assert len(objects(result)) == 1
    assert result.stderr == f"taken although spade-index drew them, for they are named: 1 ({path})\n"


def test_pictures_are_excluded_by_pattern(gallery: Path, tmp_path: Path) -> None:
    folder = write_normal(tmp_path / "images", 3, start=40)
    (folder / "002.png").rename(folder / "000_mask.png")
    answers = run("query", gallery, folder, "--exclude", "*_mask*", "--exclude", "001.*", "--json")
    assert [answer["image"] for answer in objects(answers)] == ["000.png"]
    assert "passed over: 2 excluded" in answers.stderr
    assert "2 added" in run("add", gallery, folder, "--exclude", "*_mask.png", "--prefix", "more/").stdout
    assert "1 added" in run("build", folder, tmp_path / "new", "--exclude", "00[01].*", *BACKBONE).stdout
    assert "excluded" in refused("query", gallery, folder, "--exclude", "*")
    assert run("query", gallery, folder, "--exclude", "*_msk*").stderr == "--exclude '*_msk*' matched nothing\n"


def test_a_list_on_standard_input(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_normal(tmp_path / "images", 2, start=40)
    monkeypatch.chdir(tmp_path)
    listing = "images/001.png\nimages/000.png\n"
    names = ["images/001.png", "images/000.png"]
    assert [answer["image"] for answer in objects(run("query", built, "-", "--json", given=listing))] == names
    reading, writing = os.pipe()
    os.write(writing, listing.encode())
    os.close(writing)
    answers = run("query", built, f"/dev/fd/{reading}", "--out", "found", "--json")  # as of a shell's <(...)
    os.close(reading)
    assert [answer["image"] for answer in objects(answers)] == names
    assert (tmp_path / "found" / "heatmaps" / "images" / "000.png.png").exists()
    assert "2 added; 2 images" in run("build", "-", "new", *BACKBONE, given=listing).stdout


def test_names_through_a_pipe_may_end_with_nul(built: Path, tmp_path: Path) -> None:
    folder = write_normal(tmp_path / "images", 2, start=40)
    (folder / "001.png").rename(folder / "new\nline.png")
    line = 'find "$0" -print0 -name "*.png" -type f | sort -z | tail -z -n 2'
    listing = subprocess.run(["bash", "-c", line, folder], capture_output=True, text=True, check=True).stdout
    done = ran(PROGRAM, "query", built, "-", "--json", given=listing)
    assert done.returncode == 0, done.stderr
    assert [Path(json.loads(answer)["image"]).name for answer in done.stdout.splitlines()] == [
        "000.png",
        "new\nline.png",
    ]
    (tmp_path / "list.txt").write_bytes(b"images/000.png\0")
    assert "it has NUL bytes" in refused("query", built, tmp_path / "list.txt")


def test_removed_images_stay_out(gallery: Path, dataset: Path, tmp_path: Path) -> None:
    good = copied(dataset / "train" / "good", tmp_path / "good")
    run("add", gallery, good)
    run("remove", gallery, "003.png", "004.png")
    said = "0 added, 10 already there, 2 were removed before and stay out (--again takes them); 10 images"
    assert said in run("add", gallery, good).stdout
    assert said in run("build", good, gallery).stdout
    # By their contents: under other names and times too, but another picture of the same name is a new one.
    os.utime(good / "003.png")
    assert said in run("add", gallery, good).stdout
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "copy.png").write_bytes((good / "004.png").read_bytes())
    normal(500).save(tmp_path / "other" / "003.png")
    assert "1 added, 1 were removed before" in run("add", gallery, tmp_path / "other").stdout
    assert "1 added, 10 already there, 1 changed but kept as they were" in run("add", gallery, good, "--again").stdout
    assert "0 added" in run("add", gallery, good).stdout


def test_an_empty_gallery_whose_images_stay_out_is_not_indexed(gallery: Path, dataset: Path) -> None:
    ids = [file.name for file in sorted((dataset / "train" / "good").iterdir())]
    run("add", gallery, dataset / "train" / "good")
    run("remove", gallery, *ids)
    again = run("add", gallery, dataset / "train" / "good")
    assert "0 added, 12 were removed before and stay out (--again takes them); 0 images" in again.stdout
    assert again.stderr == ""


def test_images_that_were_replaced_or_restored_were_not_removed_on_purpose(
    gallery: Path, dataset: Path, tmp_path: Path
) -> None:
    good = dataset / "train" / "good"
    changed = write_normal(tmp_path / "changed", 1, start=70)
    run("add", gallery, changed, "--replace")
    assert "1 added, 1 of them replaced, 11 already there" in run("add", gallery, good, "--replace").stdout
    run("remove", gallery, "005.png")
    run("restore", gallery, "005.png")
    assert "0 added, 12 already there; 12 images" in run("add", gallery, good).stdout
    run("remove", gallery, "005.png")
    run("compact", gallery)
    out = "0 added, 11 already there, 1 were removed before and stay out (--again takes them); 11 images"
    assert out in run("add", gallery, good).stdout
    os.utime(good / "005.png")
    assert out in run("add", gallery, good).stdout
    run("compact", gallery)
    assert "1 added, 11 already there; 12 images" in run("add", gallery, good, "--again").stdout
    assert "0 added, 12 already there; 12 images" in run("add", gallery, good).stdout
    run("add", gallery, write_normal(tmp_path / "later", 1, start=90), "--replace")
    run("compact", gallery)
    assert "1 added, 1 of them replaced" in run("add", gallery, good, "--replace").stdout
