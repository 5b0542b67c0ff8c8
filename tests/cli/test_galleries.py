"""The commands that create, change and describe a gallery."""

import json
import tarfile

import pytest
import torch
from torchvision import models

from spade_index.gallery import Gallery

from helpers.cli_runs import BACKBONE, SIZE, objects, run, write_normal


def test_build_can_be_repeated(dataset, tmp_path):
    images = dataset / "train" / "good"
    first = run("build", images, tmp_path / "g", *BACKBONE)
    assert first.stdout == "12 added; 12 images at snapshot 1\n"
    assert first.stderr == "no verdicts, only scores: to tune and calibrate takes 20 images\n"
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


def test_changed_images_are_replaced_only_with_replace(gallery, tmp_path):
    changed = write_normal(tmp_path / "changed", 1, start=70)
    kept = run("add", gallery, changed)
    assert "0 added, 1 changed but kept" in kept.stdout
    assert "000.png" in kept.stderr
    assert "1 added, 1 of them replaced; 12 images" in run("add", gallery, changed, "--replace").stdout


def test_list_long(built):
    first = run("list", built, "--long").stdout.splitlines()[0].split("\t")
    assert first[:3] == ["000.png", f"{SIZE[0]}x{SIZE[1]}", "1"]
    assert first[3].endswith("train/good/000.png")


def test_info_as_text_and_as_json(built):
    text = run("info", built).stdout
    assert "efficientnet-lite0" in text
    assert "64x64" in text
    facts = json.loads(run("info", built, "--json").stdout)
    assert facts["images"] == 12
    assert facts["format_version"] == 2  # maps as int8
    assert facts["settings"]["backbone"] == "efficientnet-lite0"
    assert facts["settings"]["preprocessing"]["input_size"] == [64, 64]
    assert [row["snapshot"] for row in facts["snapshots"]] == [0, 1]


def test_remove_changes_answers_but_not_those_of_earlier_snapshots(gallery, dataset):
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


def test_compact_frees_space_and_keeps_the_answers(gallery, dataset):
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


def test_a_gallery_remembers_its_stored_grid(dataset, tmp_path):
    torch.save(models.get_model("resnet18", weights=None).state_dict(), tmp_path / "w.pth")
    images = dataset / "test" / "good"
    options = ["--weights", tmp_path / "w.pth", "--input-size", 32, "--stored-grid", 4]
    run("build", images, tmp_path / "g", "--backbone", "resnet18", *options)
    with Gallery(tmp_path / "g") as gallery:
        assert gallery.settings.sizes == [(4, 4), (4, 4), (2, 2), (1, 1)]
    assert len(objects(run("query", tmp_path / "g", images, "--json"))) == 3
    assert "stored_grid" in run("query", tmp_path / "g", images, "--stored-grid", 2, status=1).stderr


def test_restore_undoes_remove(gallery, dataset):
    query = dataset / "train" / "good" / "003.png"
    (before,) = objects(run("query", gallery, query, "--json"))
    run("remove", gallery, "003.png", "004.png")
    assert run("list", gallery, "--removed").stdout == "003.png\n004.png\n"
    assert run("restore", gallery, "003.png", "004.png").stdout == "2 restored; 12 images at snapshot 3\n"
    assert run("list", gallery, "--removed").stdout == ""
    (after,) = objects(run("query", gallery, query, "--json"))
    assert {**after, "snapshot": 1} == before
    assert "--snapshot" in run("list", gallery, "--removed", "--snapshot", "1", status=2).stderr


def test_compact_beside_a_reader_says_when_space_will_be_freed(gallery):
    run("remove", gallery, "003.png")
    with Gallery(gallery) as reader:
        assert "MB to be freed by the next command that writes after readers" in run("compact", gallery).stdout
        assert len(list(reader.images())) == 11
        assert len(list((gallery / "shards").iterdir())) == 2
    assert "0.0 MB freed" in run("compact", gallery).stdout
    assert len(list((gallery / "shards").iterdir())) == 1
