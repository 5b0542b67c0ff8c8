"""Galleries with a calibration."""

from pathlib import Path

import pytest

from spade_index.gallery.write.writer import GalleryWriter
from spade_index.method import calibration

from helpers.damage import SEARCH


@pytest.fixture
def calibrated(gallery_path: Path) -> Path:
    """A gallery of its own for each test, with one calibration."""
    with GalleryWriter(gallery_path) as writer:
        calibration.store(writer, SEARCH, calibration.calibrate(writer.gallery, SEARCH))
    return gallery_path
