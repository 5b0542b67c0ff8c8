"""What people type, and what they get."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

from spade_index.gallery import Gallery

from helpers.cli_runs import BACKBONE, SIZE, copied, normal, objects, run, write_dataset, write_normal

CONTRACT = {"image", "score", "threshold", "anomalous", "snapshot", "neighbours", "score_map", "heatmap"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("cli") / "dataset")


@pytest.fixture(scope="module")
def built(dataset: Path) -> Path:
    """A gallery that no test may change."""
    run("build", dataset / "train" / "good", dataset.parent / "gallery", *BACKBONE)
    return dataset.parent / "gallery"


@pytest.fixture
def gallery(built: Path, tmp_path: Path) -> Path:
    return copied(built, tmp_path / "gallery")


def test_build_counts_and_repeats_nothing(dataset, tmp_path):
    images = dataset / "train" / "good"
    first = run("build", images, tmp_path / "g", *BACKBONE)
    assert first.stdout == "12 added; 12 images at snapshot 1\n"
    assert first.stderr == ""
    again = run("build", images, tmp_path / "g")
    assert again.stdout == "0 added, 12 already there; 12 images at snapshot 1\n"
    assert run("verify", tmp_path / "g").stdout.endswith("12 images at snapshot 1, no problems\n")


def test_add_extends_a_gallery(gallery, tmp_path):
    more = write_normal(tmp_path / "more", 3, start=50)
    result = run("add", gallery, more, "--prefix", "line-2/")
    assert "3 added; 15 images at snapshot 2" in result.stdout
    names = run("list", gallery).stdout.splitlines()
    assert names == [f"{n:03d}.png" for n in range(12)] + [f"line-2/{n:03d}.png" for n in range(3)]
    assert run("list", gallery, "--snapshot", 1).stdout.splitlines() == names[:12]


def test_add_takes_archives_lists_and_several_sources(gallery, tmp_path):
    more = write_normal(tmp_path / "more", 3, start=50)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(more / "000.png", "packed/a.png")
    (tmp_path / "list.txt").write_text("more/001.png\n")
    (more / "002.png").rename(tmp_path / "single.png")
    result = run("add", gallery, tmp_path / "a.tar.gz", tmp_path / "list.txt", tmp_path / "single.png")
    assert "3 added" in result.stdout
    assert run("list", gallery).stdout.splitlines()[12:] == ["packed/a.png", "more/001.png", "single.png"]


def test_changed_images_are_kept_until_they_are_to_be_replaced(gallery, tmp_path):
    changed = write_normal(tmp_path / "changed", 1, start=70)
    kept = run("add", gallery, changed)
    assert "0 added, 1 changed but kept" in kept.stdout
    assert "000.png" in kept.stderr
    assert "1 added, 1 of them replaced; 12 images" in run("add", gallery, changed, "--replace").stdout


def test_list_can_say_more(built):
    first = run("list", built, "--long").stdout.splitlines()[0].split("\t")
    assert first[:3] == ["000.png", f"{SIZE[0]}x{SIZE[1]}", "1"]
    assert first[3].endswith("train/good/000.png")


def test_info_for_people_and_programs(built):
    text = run("info", built).stdout
    assert "efficientnet-lite0" in text
    assert "64x64" in text
    facts = json.loads(run("info", built, "--json").stdout)
    assert facts["images"] == 12
    assert facts["format_version"] == 1
    assert facts["settings"]["backbone"] == "efficientnet-lite0"
    assert facts["settings"]["preprocessing"]["input_size"] == [64, 64]
    assert [row["snapshot"] for row in facts["snapshots"]] == [0, 1]


def test_query_prints_the_contract_and_draws(built, dataset, tmp_path):
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


def test_maps_never_gives_scores_alone(built, dataset, tmp_path):
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


def test_images_of_one_name_from_two_folders_get_files_of_their_own(built, dataset, tmp_path):
    sources = dataset / "test" / "good", dataset / "test" / "hole"
    answers = objects(run("query", built, *sources, "--out", tmp_path / "out", "--json"))
    assert [answer["image"] for answer in answers] == ["000.png", "001.png", "002.png"] * 2
    assert len({answer["score_map"] for answer in answers}) == 6
    for answer in answers:
        assert np.load(answer["score_map"]).max() == pytest.approx(answer["scores"]["map"])
    assert len({Path(answer["heatmap"]).read_bytes() for answer in answers}) == 6


def test_output_stays_below_its_folder_whatever_the_ids_are(built, dataset, tmp_path):
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


def test_calibrated_thresholds_judge(gallery, dataset):
    printed = run("calibrate", gallery).stdout
    assert "12 images" in printed
    answers = objects(run("query", gallery, dataset / "test" / "hole", "--json"))
    assert all(answer["threshold"] > 0 and answer["anomalous"] is True for answer in answers)
    known = objects(run("query", gallery, dataset / "train" / "good" / "000.png", "--json"))
    assert known[0]["anomalous"] is False
    assert run("query", gallery, dataset / "test" / "hole").stdout.count("anomalous") == 3
    other_settings = objects(run("query", gallery, dataset / "test" / "hole", "--smoothing", 2, "--json"))
    assert {answer["threshold"] for answer in other_settings} == {None}
    automatic = objects(run("query", gallery, dataset / "test" / "hole", "--maps", "auto", "--json"))
    assert all(answer["score"] == answer["scores"]["pooled"] for answer in automatic)


def test_a_given_threshold_judges(built, dataset):
    image = dataset / "test" / "good" / "000.png"
    for threshold, anomalous in ((0, True), (1e9, False)):
        (answer,) = objects(run("query", built, image, "--threshold", threshold, "--json"))
        assert (answer["threshold"], answer["anomalous"]) == (threshold, anomalous)


def test_remove_changes_the_answers_and_snapshots_keep_them(gallery, dataset):
    query = dataset / "train" / "good" / "003.png"
    (before,) = objects(run("query", gallery, query, "--json"))
    assert before["neighbours"][0] == {"id": "003.png", "distance": pytest.approx(0, abs=1e-3)}
    said = run("remove", gallery, "003.png", "004.png").stdout
    assert said == "2 removed (`restore` takes them back, until `compact`); 10 images at snapshot 2\n"
    (after,) = objects(run("query", gallery, query, "--json"))
    assert "003.png" not in {neighbour["id"] for neighbour in after["neighbours"]}
    assert after["score"] > before["score"]
    assert after["snapshot"] == 2
    (then,) = objects(run("query", gallery, query, "--snapshot", 1, "--json"))
    assert then == before


def test_compact_makes_room_and_keeps_the_answers(gallery, dataset):
    run("remove", gallery, "003.png")
    query = dataset / "test" / "hole"
    before = objects(run("query", gallery, query, "--json"))
    assert "11 images at snapshot 3" in run("compact", gallery).stdout
    after = objects(run("query", gallery, query, "--json"))
    # Rewritten on disk, the same in numbers.
    assert [{**answer, "snapshot": 2} for answer in after] == before
    assert "no problems" in run("verify", gallery).stdout
    assert json.loads(run("info", gallery, "--json").stdout)["removed_images"] == 0


def test_index_can_be_rebuilt(gallery, dataset):
    before = objects(run("query", gallery, dataset / "test" / "good", "--json"))
    for path in (gallery / "index").iterdir():
        path.unlink()
    assert run("index", gallery).stdout == "flat index of 12 images, exact\n"
    assert objects(run("query", gallery, dataset / "test" / "good", "--json")) == before


def test_a_gallery_remembers_its_weights_file(dataset, tmp_path):
    torch.save(models.get_model("resnet18", weights=None).state_dict(), tmp_path / "w.pth")
    images = dataset / "test" / "good"
    run("build", images, tmp_path / "g", "--backbone", "resnet18", "--weights", tmp_path / "w.pth", "--input-size", 32)
    assert len(objects(run("query", tmp_path / "g", images, "--json"))) == 3


def test_evaluate_writes_figures_and_a_page(dataset, tmp_path):
    files = ["--json", tmp_path / "figures.json", "--report", tmp_path / "page.html"]
    result = run("evaluate", dataset, *BACKBONE, *files)
    assert result.stderr == ""
    figures = json.loads((tmp_path / "figures.json").read_text())
    for name in ("image_roc_auc", "pixel_roc_auc", "pro"):
        assert 0.5 < figures[name] <= 1
        assert 0.5 < figures["kinds"]["hole"][name] <= 1
    assert figures["settings"]["backbone"] == "efficientnet-lite0"
    assert figures["seconds"]["search"] > 0
    assert "hole" in result.stdout
    assert "hole" in (tmp_path / "page.html").read_text()


def test_evaluate_with_a_given_gallery_gives_the_same_figures(dataset, built, tmp_path):
    run("evaluate", dataset, *BACKBONE, "--json", tmp_path / "own.json")
    run("evaluate", dataset, "--gallery", built, "--json", tmp_path / "given.json")
    own, given = (json.loads((tmp_path / name).read_text()) for name in ("own.json", "given.json"))
    for name in ("image_roc_auc_by_score", "pixel_roc_auc", "pro", "kinds", "search", "settings"):
        assert own[name] == given[name]


def test_figures_that_are_not_defined_are_null(built, tmp_path):
    dataset = write_dataset(tmp_path / "dataset")
    for path in (dataset / "ground_truth" / "hole").iterdir():
        Image.new("L", SIZE).save(path)
    run("evaluate", dataset, "--gallery", built, "--json", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text(), parse_constant=pytest.fail)
    assert figures["pro"] is None
    assert figures["image_roc_auc"] > 0.5


def test_as_a_program(built, dataset):
    program = [sys.executable, "-c", "from spade_index.cli import main; main()"]
    for arguments, status in (
        (["query", built, dataset / "test" / "good", "--json"], 0),
        (["info", built / "nothing"], 1),
        (["query", built], 2),
    ):
        done = subprocess.run([*program, *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        if status == 0:
            assert done.stderr == ""
            assert len([json.loads(line) for line in done.stdout.splitlines()]) == 3
        else:
            assert done.stdout == ""
            assert "Traceback" not in done.stderr


def test_what_pillow_says_of_damaged_files_is_not_repeated(built, tmp_path):
    normal(0).save(tmp_path / "x.tiff", compression="tiff_lzw")
    data = (tmp_path / "x.tiff").read_bytes()
    (tmp_path / "x.tiff").write_bytes(data[: len(data) // 2])
    program = [sys.executable, "-c", "from spade_index.cli import main; main()"]
    done = subprocess.run([*program, "query", str(built), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2
    assert all("x.tiff" in line or line.startswith("spade-index: ") for line in done.stderr.splitlines())


def test_restore_takes_back_a_removal(gallery, dataset):
    query = dataset / "train" / "good" / "003.png"
    (before,) = objects(run("query", gallery, query, "--json"))
    run("remove", gallery, "003.png", "004.png")
    assert run("list", gallery, "--removed").stdout == "003.png\n004.png\n"
    assert run("restore", gallery, "003.png", "004.png").stdout == "2 restored; 12 images at snapshot 3\n"
    assert run("list", gallery, "--removed").stdout == ""
    (after,) = objects(run("query", gallery, query, "--json"))
    assert {**after, "snapshot": 1} == before
    assert "--snapshot" in run("list", gallery, "--removed", "--snapshot", "1", status=2).stderr


def test_compact_beside_a_reader_says_when_there_will_be_room(gallery):
    run("remove", gallery, "003.png")
    with Gallery(gallery) as reader:
        assert "MB to be freed by the next command that writes after readers" in run("compact", gallery).stdout
        assert len(list(reader.images())) == 11
        assert len(list((gallery / "shards").iterdir())) == 2
    assert "0.0 MB freed" in run("compact", gallery).stdout
    assert len(list((gallery / "shards").iterdir())) == 1
