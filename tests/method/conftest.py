"""A dataset for the tests of the method."""

from pathlib import Path

import pytest

from helpers.datasets import write_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A dataset in MVTec layout that the test may change."""
    return write_dataset(tmp_path / "dataset")
