"""Galleries that one process has built."""

from pathlib import Path

import pytest

from helpers.clusters import build_here, write_sources


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images, with one that cannot be decoded and one that is a copy."""
    return write_sources(tmp_path_factory.mktemp("sources") / "images")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, sources: Path) -> Path:
    """The gallery that one process builds of them."""
    path = tmp_path_factory.mktemp("whole") / "gallery"
    build_here(path, sources)
    return path
