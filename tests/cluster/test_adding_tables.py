"""Workers of a cluster add images by the tables of a gallery whose maps need some."""

import shutil
from pathlib import Path

import pytest

from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter

from helpers.cli_runs import BACKBONE, run, write_normal
from helpers.clusters import build_here, build_there, require_same
from helpers.tiny import write_images

pytestmark = pytest.mark.usefixtures("cluster")


def test_images_are_added_by_the_tables_of_a_gallery(tmp_path: Path, whole: Path) -> None:
    with GalleryWriter(shutil.copytree(whole, tmp_path / "whole")) as writer:
        writer.compact(maps="pq")
        name = writer.gallery.storage.name
    shutil.copytree(tmp_path / "whole", tmp_path / "gallery")
    more = write_images(tmp_path / "more", 5, seed=1)
    build_here(tmp_path / "whole", more, replace=True)
    build_there(tmp_path / "gallery", more, workers=1, replace=True)
    require_same(tmp_path / "gallery", tmp_path / "whole")
    with Gallery(tmp_path / "gallery") as gallery:
        assert gallery.storage.name == name
        assert list(gallery.verify()) == []


def test_a_gallery_is_built_by_tables_that_are_trained_first(tmp_path: Path) -> None:
    images = write_normal(tmp_path / "images", 20)
    for name, options in (("whole", []), ("gallery", ["--ray", "local", "--workers", "2"])):
        run("build", images, tmp_path / name, *BACKBONE, "--no-tune", "--maps", "pq", *options)
    require_same(tmp_path / "gallery", tmp_path / "whole")
    with Gallery(tmp_path / "gallery") as gallery:
        assert gallery.codec == "pq"
