"""Errors are one line on standard error that names the file, with exit status 1; usage errors exit with 2."""

import sqlite3
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torchvision import models

from spade_index.gallery.store.format import VERSION
from spade_index.gallery.write.writer import GalleryWriter

from helpers.cli_runs import BACKBONE, copied, normal, objects, refused, run, write_dataset, write_normal


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_normal(tmp_path_factory.mktemp("errors") / "images", 10)


@pytest.fixture(scope="module")
def built(images: Path) -> Path:
    """A gallery that no test may change."""
    run("build", images, images.parent / "gallery", *BACKBONE)
    return images.parent / "gallery"


@pytest.fixture
def gallery(built: Path, tmp_path: Path) -> Path:
    return copied(built, tmp_path / "gallery")


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder of two good images and, between them, a truncated one."""
    folder = write_normal(tmp_path / "mixed", 3, start=60)
    path = folder / "001.png"
    path.write_bytes(path.read_bytes()[:3000])
    return folder


@pytest.fixture
def bad_image(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A file that cannot be decoded, alone in its folder."""
    path = tmp_path / "bad" / "x.jpg"
    path.parent.mkdir()
    normal(0).save(path)
    contents = {"text": b"not a photograph\n", "truncated": path.read_bytes()[:600], "empty": b""}
    path.write_bytes(contents[request.param])
    return path


every_bad_image = pytest.mark.parametrize("bad_image", ["text", "truncated", "empty"], indirect=True)


def test_an_empty_folder(built, tmp_path):
    (tmp_path / "empty").mkdir()
    for command in (["build", tmp_path / "empty", tmp_path / "g"], ["query", built, tmp_path / "empty"]):
        line = refused(*command)
        assert str(tmp_path / "empty") in line
        assert "no images" in line
    assert not (tmp_path / "g").exists()


def test_missing_images(gallery, tmp_path):
    nothing = tmp_path / "nothing"
    for command in (["build", nothing, tmp_path / "g"], ["add", gallery, nothing], ["query", gallery, nothing]):
        assert f"{nothing}: no such file or folder" in refused(*command)


@every_bad_image
def test_only_an_image_that_cannot_be_decoded(built, bad_image, tmp_path):
    for source in (bad_image, bad_image.parent):
        for command in (["build", source, tmp_path / "g", *BACKBONE], ["query", built, source]):
            result = run(*command, status=1)
            named, summary = result.stderr.splitlines()
            assert str(bad_image) in named
            assert summary.startswith("spade-index: ")
            assert result.stdout == ""


def test_one_bad_image_among_good_ones_is_named_and_counted(mixed, built, tmp_path):
    result = run("build", mixed, tmp_path / "g", *BACKBONE)
    line, hint = result.stderr.splitlines()
    assert str(mixed / "001.png") in line
    assert hint == "no verdicts, only scores: to tune and calibrate takes 20 images"
    assert result.stdout == "2 added, 1 could not be decoded; 2 images at snapshot 1\n"
    answers = run("query", built, mixed, "--json", "--out", tmp_path / "out", status=1)
    assert [answer["image"] for answer in objects(answers)] == ["000.png", "002.png"]
    assert all(Path(answer["heatmap"]).is_file() for answer in objects(answers))
    named, summary = answers.stderr.splitlines()
    assert str(mixed / "001.png") in named
    assert summary == "spade-index: 1 of the images could not be decoded"


def test_strict_stops_at_the_first_bad_image(mixed, tmp_path):
    assert str(mixed / "001.png") in refused("build", mixed, tmp_path / "g", *BACKBONE, "--strict")


@pytest.mark.parametrize(
    "command",
    [
        ["info", "GALLERY"],
        ["list", "GALLERY"],
        ["verify", "GALLERY"],
        ["index", "GALLERY"],
        ["calibrate", "GALLERY"],
        ["compact", "GALLERY"],
        ["remove", "GALLERY", "000.png"],
        ["query", "GALLERY", "IMAGES"],
        ["add", "GALLERY", "IMAGES"],
    ],
    ids=lambda command: command[0],
)
def test_a_missing_gallery(command, images, tmp_path):
    places = {"GALLERY": tmp_path / "none", "IMAGES": images}
    line = refused(*(places.get(part, part) for part in command))
    assert str(tmp_path / "none") in line
    assert "spade-index build" in line
    assert not (tmp_path / "none").exists()


def test_a_truncated_shard(gallery, images):
    (shard,) = (gallery / "shards").iterdir()
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    assert str(shard) in refused("query", gallery, images)
    problems = run("verify", gallery, status=1).stderr.splitlines()
    assert str(shard) in problems[0]
    shard.unlink()
    assert f"{shard}: missing" in refused("query", gallery, images)


def test_altered_bytes_are_found_by_verify(gallery):
    (shard,) = (gallery / "shards").iterdir()
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0xFF
    shard.write_bytes(bytes(data))
    problem, summary = run("verify", gallery, status=1).stderr.splitlines()
    assert str(shard) in problem
    assert "1 problem;" in summary


def test_a_gallery_of_a_newer_format(gallery, images):
    with sqlite3.connect(gallery / "catalog.sqlite") as db:
        db.execute("UPDATE meta SET value = ? WHERE name = 'version'", (str(VERSION + 1),))
    for command in (["query", gallery, images], ["add", gallery, images], ["info", gallery]):
        line = refused(*command)
        assert "newer" in line
        assert "pip install --upgrade" in line


def test_a_catalog_of_another_file_type(gallery):
    (gallery / "catalog.sqlite").write_bytes(b"not a database, but long enough to be one" * 100)
    assert str(gallery / "catalog.sqlite") in refused("info", gallery)


def test_other_weights(gallery, images, tmp_path):
    from efficientnet_lite_pytorch import EfficientNet

    torch.save(EfficientNet.from_name("efficientnet-lite0").state_dict(), tmp_path / "other.pth")
    line = refused("query", gallery, images, "--weights", tmp_path / "other.pth")
    assert f"{gallery} was built with weights" in line


@pytest.mark.parametrize("option", [["--input-size", "96"], ["--resize", "80"], ["--mean", "0.5,0.5,0.5"]])
def test_other_preprocessing(built, images, option):
    line = refused("query", built, images, *option)
    assert option[0].removeprefix("--").replace("-", "_") in line


def test_a_folder_with_other_files(images, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("precious")
    line = refused("build", images, tmp_path / "thesis", *BACKBONE)
    assert "chapter.tex" in line
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_a_path_that_cannot_be_written(built, images, tmp_path):
    (tmp_path / "file").write_text("no folder")
    for line in (
        refused("build", images, tmp_path / "file" / "gallery", *BACKBONE),
        refused("build", images, tmp_path / "file", *BACKBONE),
        refused("demo", "--out", tmp_path / "file"),
    ):
        assert str(tmp_path / "file") in line
    answers = run("query", built, images / "000.png", "--out", tmp_path / "file" / "out", status=1)
    (line,) = answers.stderr.splitlines()
    assert str(tmp_path / "file") in line


def test_an_unknown_image_removes_nothing(gallery):
    assert "'nothing.png'" in refused("remove", gallery, "000.png", "nothing.png")
    assert len(run("list", gallery).stdout.splitlines()) == 10


def test_a_second_writer_is_refused(gallery, images):
    with GalleryWriter(gallery):
        for command in (
            ["add", gallery, images],
            ["remove", gallery, "000.png"],
            ["index", gallery],
            ["compact", gallery],
        ):
            line = refused(*command)
            assert str(gallery) in line
            assert "another process" in line
        assert len(objects(run("query", gallery, images, "--json"))) == 10


def test_weights_that_cannot_be_downloaded(images, tmp_path, monkeypatch):
    def fail(self, *arguments, **options):
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", fail)
    line = refused("build", images, tmp_path / "g")
    assert "wide_resnet50_2" in line
    assert "--weights FILE" in line
    assert "--backbone efficientnet-lite0" in line
    assert not (tmp_path / "g").exists()


def test_maps_auto_needs_a_threshold(built, images):
    line = refused("query", built, images, "--maps", "auto")
    assert "spade-index calibrate" in line
    assert run("query", built, images, "--maps", "auto", "--threshold", "1").stderr == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--image-score", "map", "--maps", "never"], "needs every image's score map"),
        (["--snapshot", "9"], "no snapshot 9"),
        (["--gallery-neighbours", "0"], "gallery_neighbours"),
        (["--level-weights", "1,2"], "4 levels"),
        (["--level-weights", "heavy"], "heavy"),
        (["--mean", "0.5"], "mean"),
        (["--input-size", "large"], "large"),
        (["--resize", "20"], "--resize"),
        (["--device", "gpu"], "gpu"),
        (["--backbone", "resnet81"], "resnet18"),
        (["--levels", "_blocks.2,_blocks.99"], "_blocks.99"),
        (["--weights", "nothing.pth"], "nothing.pth"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_invalid_options(built, images, options, words):
    assert words in refused("query", built, images, *options)


def test_too_few_images_to_calibrate(images, tmp_path):
    run("build", images / "000.png", tmp_path / "g", *BACKBONE)
    assert "too few" in refused("calibrate", tmp_path / "g")


def test_an_emptied_gallery(gallery, images):
    run("remove", gallery, *run("list", gallery).stdout.split())
    for command in (["query", gallery, images], ["index", gallery], ["calibrate", gallery]):
        assert str(gallery) in refused(*command)
    run("compact", gallery)
    assert "10 were removed before and stay out" in run("add", gallery, images).stdout
    assert "10 added; 10 images" in run("add", gallery, images, "--again").stdout


@pytest.mark.parametrize(
    ("folder", "words"),
    [("test", "test/good"), ("train/good", "train/good"), ("ground_truth/hole", "has no mask")],
)
def test_a_dataset_that_lacks_a_folder(tmp_path, folder, words):
    dataset = write_dataset(tmp_path / "dataset")
    (dataset / folder).rename(tmp_path / "elsewhere")
    assert words in refused("evaluate", dataset, *BACKBONE)


def test_a_dataset_without_an_image_that_can_be_decoded(built, tmp_path):
    dataset = write_dataset(tmp_path / "dataset")
    for path in (dataset / "test").rglob("*.png"):
        path.write_bytes(b"")
    result = run("evaluate", dataset, "--gallery", built, status=1)
    assert len(result.stderr.splitlines()) == 7
    assert result.stderr.splitlines()[-1].startswith("spade-index: ")


@pytest.mark.parametrize(
    "arguments",
    [["bild"], ["build"], ["query", "g"], ["query", "g", "x", "--mode", "sum"], ["list", "g", "--snapshot", "one"]],
    ids=" ".join,
)
def test_usage_errors_exit_with_status_2(arguments):
    assert "Usage:" in run(*arguments, status=2).stderr
