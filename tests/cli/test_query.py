"""`query` and `calibrate`: scores, score maps, heat maps and verdicts."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.cli_runs import BACKBONE, SIZE, normal, objects, run
from helpers.warm import PROGRAM, ran

CONTRACT = {"image", "score", "threshold", "anomalous", "snapshot", "neighbours", "score_map", "heatmap"}


def test_query_prints_answers_and_draws_heat_maps(built, dataset, tmp_path):
    result = run("query", built, dataset / "test" / "hole", "--out", tmp_path / "out", "--json")
    answers = objects(result)
    assert result.stderr == ""
    assert [answer["image"] for answer in answers] == ["000.png", "001.png", "002.png"]
    for answer in answers:
        assert answer.keys() >= CONTRACT
        assert answer["score"] > 0
        assert answer["threshold"] is None
        assert answer["anomalous"] is None
        assert answer["snapshot"] == 1
        distances = [neighbour["distance"] for neighbour in answer["neighbours"]]
        assert len(distances) == 3
        assert distances == sorted(distances)
        assert all(neighbour.keys() == {"id", "distance"} for neighbour in answer["neighbours"])
        score_map = np.load(answer["score_map"])
        assert (score_map.dtype, score_map.shape) == (np.float32, (64, 64))
        with Image.open(answer["heatmap"]) as heatmap:
            assert (heatmap.format, heatmap.size) == ("PNG", SIZE)
        row, column = np.unravel_index(score_map.argmax(), score_map.shape)
        assert abs(column / 64 * SIZE[0] - 40) < 18
        assert abs(row / 64 * SIZE[1] - 40) < 18
        assert answer["evidence"]["neighbour"] in {f"{n:03d}.png" for n in range(12)}
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(answer["image"] in page for answer in answers)


def test_query_without_out_leaves_no_files(built, dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answers = objects(run("query", built, dataset / "test" / "good", "--json"))
    assert [(answer["score_map"], answer["heatmap"]) for answer in answers] == [(None, None)] * 3
    assert list(tmp_path.iterdir()) == []


def test_query_without_json_is_a_line_for_each_image(built, dataset):
    lines = run("query", built, dataset / "test" / "good").stdout.splitlines()
    assert len(lines) == 3
    assert all(f"{number:03d}.png" in line for number, line in enumerate(lines))


def test_maps_never_gives_scores_only(built, dataset, tmp_path):
    result = run("query", built, dataset / "test" / "good", "--maps", "never", "--out", tmp_path / "out", "--json")
    with_maps = objects(run("query", built, dataset / "test" / "good", "--json"))
    for answer, other in zip(objects(result), with_maps, strict=True):
        assert (answer["score_map"], answer["heatmap"]) == (None, None)
        assert answer["score"] == pytest.approx(other["scores"]["pooled"])


def test_scores_do_not_depend_on_the_batch(built, dataset):
    one, many = (
        [answer["score"] for answer in objects(run("query", built, dataset / "test" / "hole", "--json", *batch))]
        for batch in (["--batch-size", 1], ["--batch-size", 8])
    )
    assert one == pytest.approx(many, rel=1e-4)


def test_the_papers_preset(built, dataset):
    (answer,) = objects(run("query", built, dataset / "test" / "good" / "000.png", "--preset", "paper", "--json"))
    assert answer["score"] == answer["scores"]["pooled"]
    assert len(answer["neighbours"]) == 12


def test_images_of_the_same_name_get_different_files(built, dataset, tmp_path):
    sources = dataset / "test" / "good", dataset / "test" / "hole"
    answers = objects(run("query", built, *sources, "--out", tmp_path / "out", "--json"))
    assert [answer["image"] for answer in answers] == ["000.png", "001.png", "002.png"] * 2
    assert len({answer["score_map"] for answer in answers}) == 6
    for answer in answers:
        assert np.load(answer["score_map"]).max() == pytest.approx(answer["scores"]["map"])
    assert len({Path(answer["heatmap"]).read_bytes() for answer in answers}) == 6


def test_output_stays_below_its_folder_for_any_id(built, dataset, tmp_path):
    image = dataset / "test" / "hole" / "000.png"
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("../x.png", "../../x.png", "/etc/x.png", "a/../../x.png"):
            member = tarfile.TarInfo(name)
            member.size = image.stat().st_size
            with image.open("rb") as file:
                archive.addfile(member, file)
    before = {path for path in tmp_path.rglob("*") if "out" not in path.parts}
    answers = objects(run("query", built, tmp_path / "a.tar", "--out", tmp_path / "deep" / "out", "--json"))
    assert len(answers) == 4
    written = {Path(answer[kind]).resolve() for answer in answers for kind in ("score_map", "heatmap")}
    assert len(written) == 8
    assert all(path.is_relative_to(tmp_path / "deep" / "out") and path.is_file() for path in written)
    after = {path for path in tmp_path.rglob("*") if "deep" not in path.parts}
    assert after == before


def test_calibrated_thresholds_give_verdicts(gallery, dataset):
    printed = run("calibrate", gallery, "--false-alarms", 0.1).stdout
    assert "12 images" in printed
    answers = objects(run("query", gallery, dataset / "test" / "hole", "--json"))
    assert all(answer["threshold"] > 0 and answer["anomalous"] is True for answer in answers)
    known = objects(run("query", gallery, dataset / "train" / "good" / "000.png", "--json"))
    assert known[0]["anomalous"] is False
    assert run("query", gallery, dataset / "test" / "hole").stdout.count("anomalous") == 3
    other_settings = objects(run("query", gallery, dataset / "test" / "hole", "--smoothing", 2, "--json"))
    assert all(answer["threshold"] > 0 and answer["anomalous"] is True for answer in other_settings)
    automatic = objects(run("query", gallery, dataset / "test" / "hole", "--maps", "auto", "--json"))
    assert all(answer["score"] == answer["scores"]["pooled"] for answer in automatic)


def test_regions_are_told_and_drawn(gallery, dataset, tmp_path):
    run("calibrate", gallery)
    images = dataset / "test" / "hole", dataset / "train" / "good" / "000.png"
    answers = objects(run("query", gallery, *images, "--false-alarms", 0.1, "--out", tmp_path / "out", "--json"))
    for answer in answers[:3]:
        worst, *_ = answer["regions"]
        assert worst.keys() == {"polygon", "box", "area", "score", "known_defect"}
        assert worst["score"] == np.load(answer["score_map"]).max()
        x, y, width, height = worst["box"]
        assert x < 40 < x + width
        assert y < 40 < y + height
        assert 0 < worst["area"] <= width * height
        with Image.open(answer["mask"]) as mask:
            assert (mask.mode, mask.size, mask.getpixel((40, 40))) == ("L", SIZE, 255)
            areas = [region["area"] for region in answer["regions"]]
            assert np.count_nonzero(mask) == pytest.approx(sum(areas), rel=0.05)
    coco = json.loads((tmp_path / "out" / "regions.coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["000.png", "001.png", "002.png", "000.png"]
    assert [entry["bbox"] for entry in coco["annotations"]] == [
        region["box"] for answer in answers for region in answer["regions"]
    ]
    known = answers[3]
    assert known["regions"] == []
    assert not np.asarray(Image.open(known["mask"])).any()


def test_without_a_threshold_or_a_score_map_there_are_no_regions(built, gallery, dataset, tmp_path):
    run("calibrate", gallery)
    for arguments in ([built], [gallery, "--maps", "never", "--false-alarms", 0.1]):
        (answer,) = objects(
            run("query", *arguments, dataset / "test" / "hole" / "000.png", "--out", tmp_path / "out", "--json")
        )
        assert (answer["regions"], answer["mask"]) == (None, None)
    assert not (tmp_path / "out" / "masks").exists()
    assert not (tmp_path / "out" / "regions.coco.json").exists()


def test_a_given_threshold_gives_verdicts(built, dataset):
    image = dataset / "test" / "good" / "000.png"
    for threshold, anomalous in ((0, True), (1e9, False)):
        (answer,) = objects(run("query", built, image, "--threshold", threshold, "--json"))
        assert (answer["threshold"], answer["anomalous"]) == (threshold, anomalous)


def test_query_as_a_program(built, dataset):
    for arguments, status in (
        (["query", built, dataset / "test" / "good", "--json"], 0),
        (["info", built / "nothing"], 1),
        (["query", built], 2),
    ):
        done = ran(PROGRAM, *arguments)
        assert done.returncode == status, done.stderr
        if status == 0:
            assert done.stderr == ""
            assert len([json.loads(line) for line in done.stdout.splitlines()]) == 3
        else:
            assert done.stdout == ""
            assert "Traceback" not in done.stderr


def test_warnings_of_pillow_are_not_printed(built, tmp_path):
    normal(0).save(tmp_path / "x.tiff", compression="tiff_lzw")
    data = (tmp_path / "x.tiff").read_bytes()
    (tmp_path / "x.tiff").write_bytes(data[: len(data) // 2])
    done = ran(PROGRAM, "query", built, tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2
    assert all("x.tiff" in line or line.startswith("spade-index: ") for line in done.stderr.splitlines())


def test_a_gallery_of_copies_is_named(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(10):  # the same pixels in files that differ
        normal(0).save(tmp_path / "images" / f"{number}.png", compress_level=number % 10, dpi=(number + 1, 1))
    run("build", tmp_path / "images", tmp_path / "gallery", *BACKBONE)
    run("calibrate", tmp_path / "gallery", "--false-alarms", "0.1")
    (line,) = run("query", tmp_path / "gallery", tmp_path / "images" / "0.png").stderr.splitlines()
    assert "copies of each other" in line
