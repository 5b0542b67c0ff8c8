"""Galleries with a calibration, and object stores."""

import shutil
from pathlib import Path

import pytest

from spade_index.gallery.location import Location
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.method import calibration

from helpers.damage import SEARCH
from helpers.remote import URL
from helpers.s3_server import S3


@pytest.fixture(scope="session")
def _calibrated(_built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = shutil.copytree(_built, tmp_path_factory.mktemp("calibrated") / "gallery")
    with GalleryWriter(path) as writer:
        calibration.store(writer, SEARCH, calibration.calibrate(writer.gallery, SEARCH))
    return path


@pytest.fixture
def calibrated(_calibrated: Path, tmp_path: Path) -> Path:
    """A gallery of its own for each test, with one calibration."""
    return shutil.copytree(_calibrated, tmp_path / "gallery")


@pytest.fixture(params=["s3", "file"])
def location(request: pytest.FixtureRequest, s3: S3, tmp_path: Path) -> Location:
    """A place in a bucket, and one in a folder."""
    return URL if request.param == "s3" else Location.parse(f"file://{tmp_path}/store/gallery")
