"""Galleries that one process has built, and workers that search."""

import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from spade_index.cluster.searching import SearchOnCrew, searching_on
from spade_index.gallery.remote.cache import CacheSettings
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.method.calibration import calibrate, store

from helpers.clusters import WAYS, build_here, write_sources
from helpers.tiny import build, tiny_backbone, write_images

LIMIT = 300  # seconds of a test, ten times as many as the slowest takes: a worker may never answer


@pytest.fixture(autouse=True)
def _limited() -> Iterator[None]:
    """Fail a test in place of waiting for a cluster for ever."""

    def late(*_: object) -> None:
        raise TimeoutError(f"the test took more than {LIMIT} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


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


@pytest.fixture(scope="module")
def told() -> list[str]:
    """What was said of workers that were lost."""
    return []


@pytest.fixture(scope="module")
def elsewhere(cluster: ModuleType, told: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[SearchOnCrew]:
    """Two workers."""
    cache = CacheSettings(tmp_path_factory.mktemp("cache"))
    with searching_on("local", workers=2, cache=cache, say=told.append) as found:
        yield found


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of 12 images in shards of two, calibrated for the ways that need it."""
    folder = tmp_path_factory.mktemp("searched")
    build(folder / "gallery", write_images(folder / "images", 12), tiny_backbone(), shard_rows=2, batch_size=2)
    with GalleryWriter(folder / "gallery") as writer:
        for way in (WAYS["plain"], WAYS["subtracted"]):
            store(writer, way, calibrate(writer.gallery, way, false_alarms=0.1))
    return folder / "gallery"
