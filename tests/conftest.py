"""Fixtures that all tests share: images, a tiny backbone and small galleries."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import faiss
import pytest
import torch

from spade_index.cluster.connection import ALONE, QUIET, connected
from spade_index.features import backbone as features
from spade_index.features.backbone import Backbone
from spade_index.features.pretrained import load_model
from spade_index.images import DecodedImage, find_images, load
from spade_index.method import tuning
from spade_index.settings import DEFAULT_BACKBONE, Preprocessing

from helpers.ray_workers import forking
from helpers.s3_server import S3, s3_server
from helpers.tiny import build, tiny_backbone, write_images

LITE0 = "efficientnet-lite0"

# Several tests run at a time: none takes more than a core, nor does a process that one starts.
torch.set_num_threads(1)
faiss.omp_set_num_threads(1)
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """A factory: `image_folder(count=12, seed=0, name="images")` writes images 000.png... and gives their folder."""

    def make(count: int = 12, seed: int = 0, name: str = "images", size: tuple[int, int] = (40, 36)) -> Path:
        return write_images(tmp_path / name, count, seed, size)

    return make


@pytest.fixture(scope="session", autouse=True)
def _loaded_once() -> Iterator[None]:
    """Commands in this process load the backbone that comes with the installation once for each way to use it.

    It does not change. Loading takes a third of the time of a command, and is tested in tests/features.
    """
    load, model, kept = features.load_backbone, cache(load_model), dict[str, Backbone]()

    @wraps(load)
    def loaded(
        name: str = DEFAULT_BACKBONE,
        *,
        weights: str | Path | None = None,
        preprocessing: Callable[[Preprocessing], Preprocessing] = lambda own: own,
        **how: Any,
    ) -> Backbone:
        if name != LITE0 or weights is not None:
            return load(name, weights=weights, preprocessing=preprocessing, **how)
        # As text: backbones that differ in how files are decoded have equal settings.
        key = repr((preprocessing(model(name)[1]), sorted(how.items())))
        if key not in kept:
            kept[key] = load(name, preprocessing=preprocessing, **how)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "load_backbone", loaded)
        yield


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    """A tiny backbone of 32x32 inputs with levels of 8x8, 4x4 and 2x2 and 12-d pooled descriptors."""
    return tiny_backbone()


@pytest.fixture(scope="session")
def _built(tmp_path_factory: pytest.TempPathFactory, backbone: Backbone) -> Path:
    folder = tmp_path_factory.mktemp("built")
    build(folder / "gallery", write_images(folder / "images", 12), backbone, shard_rows=5, batch_size=5)
    return folder / "gallery"


@pytest.fixture
def gallery_path(_built: Path, tmp_path: Path) -> Path:
    """A gallery of its own for each test: 12 images 000.png... in shards of 5, 5 and 2, indexed."""
    return shutil.copytree(_built, tmp_path / "gallery")


@pytest.fixture
def decoded(tmp_path: Path, backbone: Backbone) -> Callable[..., list[DecodedImage]]:
    """A factory: `decoded(count=3, seed=9)` gives images as `Detector.detect` takes them."""

    def make(count: int = 3, seed: int = 9) -> list[DecodedImage]:
        folder = write_images(tmp_path / f"queries-{seed}-{count}", count, seed)
        return [load(file, backbone.settings.preprocessing) for file in find_images(folder)]

    return make


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """A server of S3 that the environment names."""
    with s3_server() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The module `ray`, connected to a cluster with two cores, whatever the machine has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # workers import the tests' backbone
        for name, value in (QUIET | ALONE).items():  # before Ray is imported
            patch.setenv(name, value)
        with forking(tmp_path_factory.mktemp("forks")), connected("local", cores=2) as ray:
            yield ray


@pytest.fixture
def quick_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tuning has a second at most, whatever a command gives it: it takes all the time it has, and chooses in any."""
    tune = tuning.tune

    def quick(*arguments: Any, seconds: float = 1, **options: Any) -> tuning.Tuning:
        return tune(*arguments, seconds=min(seconds, 1), **options)

    monkeypatch.setattr(tuning, "tune", quick)
