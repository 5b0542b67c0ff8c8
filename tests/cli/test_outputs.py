"""Outputs are checked before work begins, one bad name ends nothing, and answers go to CSV, JSON lines and COCO."""

import csv
import io
import json
import os
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from spade_index.method import audit, evaluation, tuning
from spade_index.method.detector import Detector

from helpers.cli_runs import objects, refused, run, write_dataset, write_normal


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a command begins its work."""

    def begin(*arguments: object, **options: object) -> None:
        pytest.fail("work has begun")

    for owner, name in ((Detector, "detect"), (evaluation, "evaluate"), (audit, "audit"), (tuning, "tune")):
        monkeypatch.setattr(owner, name, begin)


OPTIONS = [
    *(("query", option) for option in ("--csv", "--jsonl", "--coco")),
    *(("evaluate", option) for option in ("--json", "--report")),
    ("audit", "--report"),
    ("tune", "--json"),
]


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=" ".join)
@pytest.mark.parametrize(
    ("place", "words"),
    [
        (lambda path: path / "missing" / "x.out", "no such folder"),
        (lambda path: path, "is a folder"),
        (lambda path: path / ("x" * 300), "File name too long"),
        (lambda path: path / "file" / "x.out", "no such folder"),
        (lambda path: path / "gallery" / "x.out", "gallery"),
    ],
    ids=["missing", "folder", "long", "below a file", "in the gallery"],
)
@pytest.mark.usefixtures("no_work")
def test_a_file_that_cannot_be_written_is_named_at_once(
    gallery: Path, dataset: Path, tmp_path: Path, command: str, option: str, place: Callable[[Path], Path], words: str
) -> None:
    (tmp_path / "file").write_text("x")
    path = place(tmp_path)
    arguments = {
        "query": ["query", gallery, dataset / "test" / "good"],
        "evaluate": ["evaluate", dataset, "--gallery", gallery],
    }
    line = refused(*arguments.get(command, [command, gallery]), option, path)
    assert words in line
    assert str(path) in line


@pytest.mark.usefixtures("no_work")
def test_an_input_is_not_replaced(gallery: Path, tmp_path: Path) -> None:
    folder = write_normal(tmp_path / "images", 2)
    (tmp_path / "list.txt").write_text("images/000.png\n")
    image = folder / "000.png"
    for source, path in ((tmp_path / "list.txt", tmp_path / "list.txt"), (folder, image), (image, image)):
        before = path.read_bytes()
        assert "would be replaced" in refused("query", gallery, source, "--csv", path)
        assert path.read_bytes() == before
    assert "two outputs" in refused("query", gallery, folder, "--csv", tmp_path / "x", "--jsonl", tmp_path / "x")
    assert "in the gallery" in refused("query", gallery, folder, "--out", gallery / "found")
    assert "in the gallery" in refused("query", gallery, folder, "--out", gallery)


@pytest.mark.usefixtures("no_work")
def test_a_folder_without_permission_is_named_at_once(
    gallery: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    for output in (["--out", tmp_path / "out"], ["--csv", tmp_path / "x.csv"]):
        assert "permission denied" in refused("query", gallery, dataset / "test", *output)


def names_in_archive(path: Path, image: Path, *names: str) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for number, name in enumerate(names):
            data = image.read_bytes()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.mtime = number
            archive.addfile(member, io.BytesIO(data))
    return path


BAD_NAMES = (
    "x" * 251 + ".png",
    "é" * 126 + ".png",
    "a/" * 900 + "x.png",
    "bad\udce9.png",
    "new\nline.png",
    "tab\t.png",
    "/x.png",
    "../../x.png",
    "a.png.npy/b.png",
    "🦊.png",
)


def test_bad_names_end_nothing(gallery: Path, dataset: Path, tmp_path: Path) -> None:
    image = dataset / "test" / "hole" / "000.png"
    names = [name for number, bad in enumerate(BAD_NAMES) for name in (bad, f"after {number}.png")]
    archive = names_in_archive(tmp_path / "a.tar", image, "a.png", *names)
    run("calibrate", gallery)
    result = run("query", gallery, archive, "--false-alarms", 0.1, "--out", tmp_path / "out", "--json")
    answers = objects(result)
    assert len(answers) == 1 + len(names)
    without = 0
    for answer in answers:
        files = [answer[output] for output in ("score_map", "heatmap", "mask")]
        assert all(Path(file).is_file() for file in files if file is not None)
        without += None in files
    assert result.stderr.count("its files cannot be written") == without
    assert all(answer["heatmap"] for answer in answers[::2])
    assert len(run("query", gallery, archive).stdout.splitlines()) == 1 + len(names)


def test_a_name_that_is_a_folder_ends_nothing(built: Path, dataset: Path, tmp_path: Path) -> None:
    image = dataset / "test" / "hole" / "000.png"
    archive = names_in_archive(tmp_path / "a.tar", image, "a.png.npy/b.png", "a.png", "c.png")
    result = run("query", built, archive, "--out", tmp_path / "out", "--json")
    assert [answer["heatmap"] is None for answer in objects(result)] == [False, True, False]
    assert "a.png: its files cannot be written" in result.stderr


def test_answers_go_to_files(gallery: Path, dataset: Path, tmp_path: Path) -> None:
    run("calibrate", gallery)
    query = ["query", gallery, dataset / "test" / "hole", "--false-alarms", 0.1]
    files = ["--csv", tmp_path / "x.csv", "--jsonl", tmp_path / "x.jsonl", "--coco", tmp_path / "x.json"]
    answers = objects(run(*query, "--json", *files))
    lines = (tmp_path / "x.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == answers
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, answer in zip(rows, answers, strict=True):
        assert (row["image"], row["path"]) == (answer["image"], answer["path"])
        assert float(row["score"]) == answer["score"]
        assert float(row["pooled"]) == answer["scores"]["pooled"]
        assert row["anomalous"] == "true"
        assert [int(row["worst_x"]), int(row["worst_y"])] == answer["evidence"]["pixel"]
        assert int(row["regions"]) == len(answer["regions"])
        assert row["heatmap"] == ""
    coco = json.loads((tmp_path / "x.json").read_text())
    assert [entry["bbox"] for entry in coco["annotations"]] == [r["box"] for a in answers for r in a["regions"]]
    assert run(*query, "--csv", "-").stdout == (tmp_path / "x.csv").read_text()
    assert run(*query, "--jsonl", "-").stdout == (tmp_path / "x.jsonl").read_text()
    assert "only one" in refused(*query, "--jsonl", "-", "--csv", "-")


def test_a_table_holds_any_name(built: Path, dataset: Path, tmp_path: Path) -> None:
    image = dataset / "test" / "hole" / "000.png"
    names = ('quo"te.png', "com,ma.png", "new\nline.png", "ü🦊.png", "=1+1.png", "@x/-2.png")
    run("query", built, names_in_archive(tmp_path / "a.tar", image, *names), "--csv", tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(newline="", encoding="utf-8") as file:
        found = [row["image"] for row in csv.DictReader(file)]
    assert found == [*names[:-2], "'=1+1.png", "'@x/-2.png"]  # which spreadsheets would compute


def test_images_are_listed_as_json(gallery: Path, dataset: Path) -> None:
    listed = objects(run("list", gallery, "--json"))
    assert [image["id"] for image in listed] == [f"{n:03d}.png" for n in range(12)]
    assert listed[0]["path"] == str(dataset / "train" / "good" / "000.png")
    assert (listed[0]["width"], listed[0]["height"], listed[0]["added"], listed[0]["removed"]) == (90, 70, 1, None)
    assert len(bytes.fromhex(listed[0]["digest"])) == 16
    run("remove", gallery, "003.png")
    (removed,) = objects(run("list", gallery, "--removed", "--json"))
    assert (removed["id"], removed["removed"]) == ("003.png", 2)


def test_a_device_is_written_to_and_not_replaced(gallery: Path, dataset: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    run("calibrate", gallery)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    run("audit", gallery, "--report", tmp_path / "pipe")
    reader.join()
    assert "<html" in read[0]
    assert (tmp_path / "pipe").is_fifo()
    run("query", gallery, dataset / "test" / "good", "--csv", "/dev/null")


def test_maps_of_odd_names_end_nothing(built: Path, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    (dataset / "test" / "good" / "000.png").rename(dataset / "test" / "good" / ("x" * 251 + ".png"))
    run("evaluate", dataset, "--gallery", built, "--maps", tmp_path / "maps")
    assert len(list((tmp_path / "maps").rglob("*.tiff"))) == 6


def test_a_dataset_may_hold_debris(built: Path, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    for name in (
        "test/@eaDir/x.png",
        "test/lost+found/x.png",
        "test/hole/._000.png",
        "ground_truth/hole/._000_mask.png",
    ):
        (dataset / name).parent.mkdir(exist_ok=True)
        (dataset / name).write_bytes(b"debris")
    run("evaluate", dataset, "--gallery", built, "--json", tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text())["images"] == 6
