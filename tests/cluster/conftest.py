"""A cluster of two workers on this machine, and galleries that one process has built."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from spade_index.cluster.connection import connected

from helpers.clusters import build_here, write_sources


@pytest.fixture(scope="session")
def cluster() -> Iterator[ModuleType]:
    """The module `ray`, connected to a cluster with two cores, whatever the machine has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # workers import the tests' backbone
        with connected("local", cores=2) as ray:
            yield ray


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
