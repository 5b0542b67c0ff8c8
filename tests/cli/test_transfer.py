"""`push` and `pull` on the command line."""

from pathlib import Path

import pytest

from helpers.cli_runs import refused, run
from helpers.s3_server import BUCKET, SECRET


@pytest.mark.usefixtures("s3")
def test_a_gallery_is_pushed_and_pulled(gallery, tmp_path):
    first = run("push", gallery, f"s3://{BUCKET}/tiles").stdout
    assert first.startswith(f"s3://{BUCKET}/tiles: 12 images at snapshot 1, ")
    assert first.endswith(" MB sent, 0.0 MB there already\n")
    assert "0.0 MB sent" in run("push", gallery, f"s3://{BUCKET}/tiles").stdout
    assert "12 images at snapshot 1" in run("pull", f"s3://{BUCKET}/tiles", tmp_path / "back").stdout
    assert "no problems" in run("verify", tmp_path / "back").stdout
    assert run("list", tmp_path / "back").stdout == run("list", gallery).stdout


def test_a_folder_is_a_store(gallery, tmp_path):
    run("push", gallery, f"file://{tmp_path}/store")
    run("pull", f"file://{tmp_path}/store", tmp_path / "back")
    assert "no problems" in run("verify", tmp_path / "back").stdout


@pytest.mark.usefixtures("s3")
def test_what_cannot_be_done_is_one_line(gallery, tmp_path, monkeypatch):
    assert "no gallery there" in refused("pull", f"s3://{BUCKET}/nothing", tmp_path / "back")
    assert "no bucket 'nowhere'" in refused("push", gallery, "s3://nowhere/gallery")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDANOTHER")
    line = refused("push", gallery, f"s3://{BUCKET}/tiles")
    assert "access is refused (403 InvalidAccessKeyId): check $AWS_ACCESS_KEY_ID" in line
    assert SECRET not in line
    assert "no gallery there" in refused("pull", f"file://{tmp_path}/nothing", tmp_path / "back")
    assert "hunter2" not in refused("push", gallery, "s3://me:hunter2@bucket/tiles")
    assert "no gallery there" in refused("push", tmp_path / "nothing", f"file://{tmp_path}/store")
    assert not Path(tmp_path, "back").exists()
