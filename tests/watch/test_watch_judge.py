"""The judge gives each file its own verdict, whatever the files of a folder are called."""

import os
import shutil
from pathlib import Path

from spade_index.gallery import Gallery
from spade_index.method.detector import Detector
from spade_index.watch.folder import Folder
from spade_index.watch.judge import Judge

from helpers.tiny import build, tiny_backbone, write_images


def test_names_that_are_shown_alike_are_two_files(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 4)
    backbone = tiny_backbone()
    build(tmp_path / "gallery", images, backbone)
    line = tmp_path / "line"
    line.mkdir()
    shutil.copy(images / "000.png", line / "a\\xff.png")
    (line / os.fsdecode(b"a\xff.png")).write_bytes(b"no image")
    shutil.copy(images / "001.png", line / "gone.png")
    folder = Folder(str(line), 0)
    folder.look(9, lambda arrival: False, lambda name: False)
    arrivals = folder.look(9, lambda arrival: False, lambda name: False)
    (line / "gone.png").unlink()
    with Gallery(tmp_path / "gallery") as gallery:
        judge = Judge(Detector(gallery, backbone), 2, 1, lambda file: None, lambda name: False)
        records = judge.verdicts(arrivals)
    assert [record["image"] for record in records] == ["a\\xff.png"] * 2
    there = [os.fsencode(arrival.name) for arrival in arrivals if arrival.name != "gone.png"]
    decoded = [record["error"] is None for record in records]
    assert dict(zip(there, decoded, strict=True)) == {b"a\\xff.png": True, b"a\xff.png": False}
