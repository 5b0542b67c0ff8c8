"""Galleries with a calibration, and object stores."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from spade_index.gallery.location import Location
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.method import calibration

from helpers.damage import SEARCH
from helpers.remote import URL
from helpers.s3_server import S3, s3_server


@pytest.fixture
def calibrated(gallery_path: Path) -> Path:
    """A gallery of its own for each test, with one calibration."""
    with GalleryWriter(gallery_path) as writer:
        calibration.store(writer, SEARCH, calibration.calibrate(writer.gallery, SEARCH))
    return gallery_path


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """A server of S3 that the environment names."""
    with s3_server() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture(params=["s3", "file"])
def location(request: pytest.FixtureRequest, s3: S3, tmp_path: Path) -> Location:
    """A place in a bucket, and one in a folder."""
    return URL if request.param == "s3" else Location.parse(f"file://{tmp_path}/store/gallery")
