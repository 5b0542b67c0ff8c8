"""Tests of the ingest benchmark: slices are compared with the backbone beside them, a wrong gallery has no figures."""

import json
import time

import pytest
from PIL import Image

from spade_index import Gallery, find_images
from spade_index.benchmarks import ingest
from spade_index.benchmarks.ingest import check_gallery, memory_samples
from spade_index.benchmarks.ingest_report import rates, summary
from spade_index.benchmarks.photographs import make_photographs
from spade_index.benchmarks.processes import process_tree, resident_mb
from spade_index.errors import GalleryError, InputError
from spade_index.gallery.write.admission import AddReport

from helpers.cli_runs import refused, run
from helpers.tiny import build, write_images
from helpers.waiting import eventually

QUICK = ["--input-size", "32", "--batch-size", "4", "--workers", "1", "--slice", "8"]


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(ingest, "FEW", 3)
    monkeypatch.setattr(ingest, "FEW_ROUNDS", 1)


def test_the_command_measures_and_writes_json_and_a_picture(tmp_path):
    folder, file, picture = write_images(tmp_path / "images", 21), tmp_path / "ingest.json", tmp_path / "ingest.png"
    (folder / "021.png").write_bytes((folder / "000.png").read_bytes())
    (folder / "022.png").write_bytes(b"no image")
    work = tmp_path / "work"
    options = ["--photographs", folder, "--json", file, "--picture", picture, "--work", work, "--keep"]
    printed = run("benchmark", "ingest", *QUICK, *options).stdout
    assert "21 images in the gallery, 1 skipped as copies, 1 could not be decoded; every file verified" in printed
    assert "nothing added" in printed
    assert picture.read_bytes().startswith(b"\x89PNG")
    results = json.loads(file.read_text())
    assert {"command", "machine", "versions", "commit", "threads", "device", "settings"} <= set(results)
    # 23 files in three slices; copies and files that are no images are given, too.
    assert [part["images"] for part in results["ingest"]["slices"]] == [7, 8, 8]
    for measured in (results["ingest"], results["without_writing"]):
        assert measured["seconds"] == pytest.approx(sum(part["seconds"] for part in measured["slices"]))
        rate = measured["images_per_second"] / measured["backbone_images_per_second"]
        assert measured["ratio"] == pytest.approx(rate)
        assert measured["ratio_min"] <= measured["ratio_median"] <= measured["ratio_max"]
    assert results["checked"]["images_compared"] == 20
    assert results["again"]["report"]["added"] == 0
    assert results["memory"]["peak_mb"] > 50
    assert [path.name for path in work.iterdir()] == ["gallery"]
    with Gallery(work / "gallery") as gallery:
        assert len(gallery) == 21 + 3


def test_made_photographs_leave_nothing_behind(tmp_path):
    work, file = tmp_path / "work", tmp_path / "ingest.json"
    run("benchmark", "ingest", *QUICK, "--images", 9, "--work", work, "--json", file)
    results = json.loads(file.read_text())
    assert results["ingest"]["images"] == 9
    assert not list(work.iterdir())


def test_invalid_options_are_refused_in_one_line(tmp_path):
    assert "--work DIR" in refused("benchmark", "ingest", "--keep")
    assert "no such folder" in refused("benchmark", "ingest", "--picture", tmp_path / "nowhere" / "ingest.png")
    (tmp_path / "images").mkdir()
    assert "no images" in refused("benchmark", "ingest", *QUICK, "--photographs", tmp_path / "images")
    (tmp_path / "gallery").mkdir()
    assert "is there already" in refused("benchmark", "ingest", *QUICK, "--keep", "--work", tmp_path)
    assert (tmp_path / "gallery").is_dir()
    with pytest.raises(InputError):
        ingest.Settings(keep=True)


def test_photographs_are_distinct_and_of_the_requested_size(tmp_path):
    make_photographs(tmp_path / "made", 30, 48.0)
    paths = sorted((tmp_path / "made").iterdir())
    assert len({path.read_bytes() for path in paths}) == 30
    assert {Image.open(path).size for path in paths} == {(48, 48)}


def test_a_slice_is_compared_with_the_backbone_beside_it():
    slices = [rates(10, 1.0, alone_rate=20), rates(30, 1.0, alone_rate=40), rates(20, 2.0, alone_rate=10)]
    assert [part["ratio"] for part in slices] == [0.5, 0.75, 1]
    found = summary(slices)
    assert (found["images"], found["seconds"], found["images_per_second"]) == (60, 4, 15)
    assert found["backbone_images_per_second"] == pytest.approx(60 / (10 / 20 + 30 / 40 + 20 / 10))
    assert found["ratio"] == pytest.approx(15 / found["backbone_images_per_second"])
    assert (found["ratio_min"], found["ratio_median"], found["ratio_max"]) == (0.5, 0.75, 1)


def test_memory_is_sampled_until_the_block_ends():
    with memory_samples(interval=0.01) as samples:
        eventually(lambda: len(samples) > 1)
    assert samples[0] == pytest.approx(resident_mb(process_tree()), rel=0.2)
    taken = len(samples)
    time.sleep(0.05)
    assert len(samples) == taken


def test_a_wrong_gallery_is_found(tmp_path, backbone, image_folder):
    folder = image_folder(6)
    report = build(tmp_path / "gallery", folder, backbone, index=False)
    files = list(find_images(folder))
    assert check_gallery(tmp_path / "gallery", backbone, files, report)["images_compared"] == 6
    with pytest.raises(GalleryError, match="6 images in the gallery"):
        check_gallery(tmp_path / "gallery", backbone, files, AddReport(added=5))
    Image.new("RGB", (40, 36)).save(folder / "003.png")
    with pytest.raises(GalleryError, match=r"003\.png is stored with another digest"):
        check_gallery(tmp_path / "gallery", backbone, files, report)
