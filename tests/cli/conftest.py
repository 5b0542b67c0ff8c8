"""A dataset and a gallery of its normal images, for the tests of all commands."""

from pathlib import Path

import pytest

from helpers.cli_runs import BACKBONE, copied, run, write_dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset in MVTec layout that no test may change."""
    return write_dataset(tmp_path_factory.mktemp("cli") / "dataset")


@pytest.fixture(scope="session")
def built(dataset: Path) -> Path:
    """A gallery that no test may change."""
    run("build", dataset / "train" / "good", dataset.parent / "gallery", *BACKBONE)
    return dataset.parent / "gallery"


@pytest.fixture
def gallery(built: Path, tmp_path: Path) -> Path:
    """A gallery that a test may change."""
    return copied(built, tmp_path / "gallery")
