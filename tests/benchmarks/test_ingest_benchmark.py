"""Tests of the ingest benchmark: slices are compared with the backbone beside them, a wrong gallery has no figures."""

import json
import threading
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from spade_index import Gallery, find_images
from spade_index.benchmarks import ingest, ingest_clock
from spade_index.benchmarks.ingest import check_gallery
from spade_index.benchmarks.ingest_clock import (
    Interleaved,
    MemorySample,
    MemorySampler,
    Slice,
    memory_growth,
    summary,
)
from spade_index.benchmarks.photographs import make_photographs
from spade_index.benchmarks.processes import process_tree, resident_mb, wait_until_idle
from spade_index.errors import GalleryError, InputError
from spade_index.gallery.write.admission import AddReport

from helpers.cli_runs import refused, run
from helpers.tiny import build, write_images

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
    assert "too short to say whether memory grows" in printed
    assert "nothing added" in printed
    assert picture.read_bytes().startswith(b"\x89PNG")
    results = json.loads(file.read_text())
    assert {"command", "machine", "versions", "commit", "threads", "device", "settings"} <= set(results)
    # Two slices of 8; the 5 images that remain are more than half a slice. Copies pass the backbone, too.
    assert [part["images"] for part in results["ingest"]["slices"]] == [8, 8, 5]
    assert [part["images"] for part in results["without_writing"]["slices"]] == [8, 8, 6]
    for measured in (results["ingest"], results["without_writing"]):
        assert measured["seconds"] == pytest.approx(sum(part["seconds"] for part in measured["slices"]))
        rate = measured["images_per_second"] / measured["backbone_images_per_second"]
        assert measured["ratio"] == pytest.approx(rate)
        assert measured["ratio_min"] <= measured["ratio_median"] <= measured["ratio_max"]
        assert measured["ratio"] <= measured["ratio_without_settling"]
    assert results["checked"]["images_compared"] == 20
    assert results["again"]["report"]["added"] == 0
    assert results["memory"]["peak_mb"] > 50
    assert [path.name for path in work.iterdir()] == ["gallery"]
    with Gallery(work / "gallery") as gallery:
        assert len(gallery) == 21 + 3


def test_made_photographs_and_rounds_leave_nothing_behind(tmp_path):
    work, file = tmp_path / "work", tmp_path / "ingest.json"
    run("benchmark", "ingest", *QUICK, "--images", 9, "--rounds", 2, "--work", work, "--json", file)
    results = json.loads(file.read_text())
    assert results["ingest"]["images"] == 18
    assert len(results["memory"]["rounds"]) == 2
    assert not list(work.iterdir())


def test_invalid_options_are_refused_in_one_line(tmp_path):
    assert "--work DIR" in refused("benchmark", "ingest", "--keep")
    assert "no such folder" in refused("benchmark", "ingest", "--picture", tmp_path / "nowhere" / "ingest.png")
    (tmp_path / "images").mkdir()
    assert "no images" in refused("benchmark", "ingest", *QUICK, "--photographs", tmp_path / "images")
    (tmp_path / "gallery").mkdir()
    assert "is there already" in refused("benchmark", "ingest", *QUICK, "--work", tmp_path)
    assert (tmp_path / "gallery").is_dir()
    with pytest.raises(InputError):
        ingest.Settings(keep=True)


def test_photographs_are_distinct_and_of_the_requested_size(tmp_path):
    make_photographs(tmp_path / "made", 30, 48.0)
    paths = sorted((tmp_path / "made").iterdir())
    assert len({path.read_bytes() for path in paths}) == 30
    assert {Image.open(path).size for path in paths} == {(48, 48)}


class Clock:
    """A backbone that takes a simulated millisecond per image; `now` is the simulated time."""

    settings = "those of the backbone"

    def __init__(self):
        self.now = 0.0

    def stream(self, batches, lanes):
        assert lanes == 1
        for pixels in batches:
            self.now += 1e-3 * len(pixels)
            yield "features"


def test_the_clock_stands_while_the_backbone_runs_alone(monkeypatch):
    clock = Clock()

    def idle():
        clock.now += 0.002
        return clock.now

    monkeypatch.setattr(ingest_clock, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(ingest_clock, "wait_until_idle", idle)
    told: list[Slice] = []
    backbone = Interleaved(clock, 8, told.append)
    assert backbone.settings == clock.settings
    batch = np.zeros((4, 2, 2, 3), np.uint8)
    backbone.start(batch, 1)
    for features in backbone.stream([batch] * 5, 1):
        assert features == "features"
        clock.now += 0.004  # of writing
    backbone.finish()
    first, last = backbone.slices
    # Two batches, computed and written; the last slice has the rest.
    assert (first.images, first.seconds, first.settling) == (8, pytest.approx(0.018), pytest.approx(0.002))
    assert (last.images, last.seconds) == (12, pytest.approx(0.026))
    assert [first.alone_rate, last.alone_rate] == pytest.approx([1000, 1000])
    assert told[0] == first
    found = summary(backbone.slices)
    assert found["ratio"] == pytest.approx(20 / 0.044 / 1000)
    assert found["ratio_without_settling"] == pytest.approx(20 / 0.040 / 1000)


def test_wait_until_idle_waits_for_a_busy_thread():
    end = threading.Event()

    def work():
        while not end.is_set():
            sum(range(1000))

    thread = threading.Thread(target=work)
    thread.start()
    threading.Timer(0.2, end.set).start()
    began = time.perf_counter()
    assert wait_until_idle() - began >= 0.15
    thread.join()


def test_memory_is_sampled_until_the_block_ends():
    with MemorySampler(lambda: 7, lambda: 3, interval=0.01) as sampler:
        time.sleep(0.1)
    assert len(sampler.samples) > 1
    assert {(sample.images, sample.committed) for sample in sampler.samples} == {(7, 3)}
    assert sampler.samples[0].megabytes == pytest.approx(resident_mb(process_tree()), rel=0.2)


def test_memory_growth_is_measured_between_first_commit_and_last_batch():
    flat = [MemorySample(float(n), 100.0 + n, images=10 * n + 10, committed=10 * (n >= 5)) for n in range(25)]
    found = memory_growth([*flat, MemorySample(25.0, 50.0, images=260, committed=260)], 260)
    assert found["peak_mb"] == 124
    assert (found["first_tenth_mb"], found["last_tenth_mb"]) == (105.5, 123.5)
    assert found["growth"] == pytest.approx(123.5 / 105.5 - 1)
    assert memory_growth(flat[:9], 260)["growth"] is None


def test_a_wrong_gallery_is_found(tmp_path, backbone, image_folder):
    folder = image_folder(6)
    report = build(tmp_path / "gallery", folder, backbone, index=False)
    files = partial(find_images, folder)
    assert check_gallery(tmp_path / "gallery", backbone, files, report)["images_compared"] == 6
    with pytest.raises(GalleryError, match="6 images in the gallery"):
        check_gallery(tmp_path / "gallery", backbone, files, AddReport(added=5))
    Image.new("RGB", (40, 36)).save(folder / "003.png")
    with pytest.raises(GalleryError, match=r"003\.png is stored with another digest"):
        check_gallery(tmp_path / "gallery", backbone, files, report)
