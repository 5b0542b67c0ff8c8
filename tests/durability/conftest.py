"""Fixtures of the crash tests."""

from pathlib import Path

import pytest

from durability.builds import IMAGES, carry_on
from helpers.tiny import write_images


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images."""
    return write_images(tmp_path_factory.mktemp("images") / "images", IMAGES)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """A gallery of these images whose build was not interrupted."""
    path = tmp_path_factory.mktemp("whole") / "gallery"
    carry_on(path, images)
    return path
