"""Galleries with a calibration, and object stores."""

from pathlib import Path

import pytest

from spade_index.gallery.location import Location
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.method import calibration

from helpers.damage import SEARCH
from helpers.remote import URL
from helpers.s3_server import S3


@pytest.fixture
def calibrated(gallery_path: Path) -> Path:
    """A gallery of its own for each test, with one calibration."""
    with GalleryWriter(gallery_path) as writer:
        calibration.store(writer, SEARCH, calibration.calibrate(writer.gallery, SEARCH))
    return gallery_path


@pytest.fixture(params=["s3", "file"])
def location(request: pytest.FixtureRequest, s3: S3, tmp_path: Path) -> Location:
    """A place in a bucket, and one in a folder."""
    return URL if request.param == "s3" else Location.parse(f"file://{tmp_path}/store/gallery")
