"""Commands that read a gallery where it was pushed to."""

import json

import pytest

from helpers.cli_runs import objects, refused, run
from helpers.s3_server import BUCKET, SECRET

URL = f"s3://{BUCKET}/tiles"


@pytest.fixture
def s3(s3, monkeypatch, tmp_path):
    """A server of S3, and a cache of its own for each test."""
    monkeypatch.setenv("SPADE_INDEX_CACHE", str(tmp_path / "cache"))
    return s3


def test_the_answers_are_those_of_the_disk(gallery, dataset, s3):
    run("push", gallery, URL)
    images = dataset / "test"
    here, there = (objects(run("query", address, images, "--json", "--maps", "always")) for address in (gallery, URL))
    assert here == there
    assert run("list", URL, "--long").stdout == run("list", gallery, "--long").stdout
    described = run("info", URL).stdout.splitlines()
    assert described[0].split() == ["gallery", URL]
    assert described[1:] == run("info", gallery).stdout.splitlines()[1:]


def test_a_dataset_is_evaluated(gallery, dataset, s3, tmp_path):
    run("push", gallery, URL)
    for name, address in {"here": gallery, "there": URL}.items():
        run("evaluate", dataset, "--gallery", address, "--json", tmp_path / name)
    here, there = (json.loads((tmp_path / name).read_text()) for name in ("here", "there"))
    for figures in (here, there):
        del figures["seconds"], figures["gallery"]["seconds"]
    assert here == there


def test_the_cache_is_where_it_is_asked_for(gallery, tmp_path, s3):
    run("push", gallery, URL)
    run("list", URL, "--cache", tmp_path / "other")
    assert list(tmp_path.glob("other/files/*.sqlite"))
    assert not (tmp_path / "cache").exists()
    assert "too small: set --cache-bytes to " in refused("list", URL, "--cache-bytes", 9000)


@pytest.mark.parametrize(
    "command",
    [
        ["build", "images", URL],
        ["add", URL, "images"],
        ["remove", URL, "000.png"],
        ["restore", URL, "000.png"],
        ["index", URL],
        ["roi", URL],
        ["tune", URL],
        ["calibrate", URL],
        ["compact", URL],
        ["verify", URL, "--repair"],
    ],
    ids=lambda command: command[0],
)
def test_commands_that_write_say_what_to_do(command):
    assert refused(*command) == (
        f"{URL}: a gallery in an object store can only be read there: `spade-index pull {URL} GALLERY`, use the "
        f"command on GALLERY, and `spade-index push GALLERY {URL}`"
    )


def test_what_cannot_be_read_is_one_line(gallery, s3, monkeypatch):
    assert f"{URL}: no gallery there" in refused("info", URL)
    assert "no bucket 'nowhere'" in refused("info", "s3://nowhere/gallery")
    assert "write s3://BUCKET/PREFIX" in refused("info", "http://host/gallery")
    assert "hunter2" not in refused("info", "s3://me:hunter2@bucket/tiles")
    run("push", gallery, URL)
    assert f"{URL}: there is no snapshot 99" in refused("list", URL, "--snapshot", "99")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDANOTHER")
    line = refused("list", URL)
    assert f"{URL}: access is refused (403 InvalidAccessKeyId)" in line
    assert SECRET not in line
