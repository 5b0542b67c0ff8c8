"""The number of open shards follows the limit of the process."""

import os
from pathlib import Path

import pytest

from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery import shards as shards_module
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.method import calibration
from spade_index.settings import SearchSettings

from helpers.processes import forked, open_few_files
from helpers.tiny import random_images

SHARDS = 120


@pytest.fixture
def many(tmp_path: Path, backbone: Backbone) -> Path:
    """A gallery of as many shards as images."""
    path = tmp_path / "gallery"
    with GalleryWriter(path, backbone.settings) as writer:
        writer.shard_rows = 1
        writer.add_features(random_images(backbone.settings, SHARDS))
    return path


def use(path: Path) -> None:
    """Search, calibrate, verify and compact."""
    search = SearchSettings(gallery_neighbours=SHARDS)
    with GalleryWriter(path) as writer:
        assert len(writer.gallery.nearest(writer.gallery.pooled(writer.gallery.sample(3)), SHARDS)[0]) == SHARDS
        calibration.store(writer, search, calibration.calibrate(writer.gallery, search, sample=10))
        assert list(writer.gallery.verify()) == []
        writer.compact()
        assert len(writer.gallery.catalog.shards()) == 1


def test_many_shards_take_few_files(many: Path) -> None:
    def run() -> None:
        open_few_files(100)
        use(many)

    _, status = os.waitpid(forked(run), 0)
    assert os.waitstatus_to_exitcode(status) == 0
    with Gallery(many) as gallery:
        assert len(gallery) == SHARDS


@pytest.mark.parametrize(("files", "most"), [(100, 13), (64, 4), (256, 52), (1024, 200), (4096, 253), (100_000, 1000)])
def test_shards_that_are_held_open(files: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module.resource, "getrlimit", lambda kind: (files, files))
    assert shards_module.most_open() == most
