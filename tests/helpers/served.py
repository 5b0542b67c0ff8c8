"""Galleries to serve, and services that end with their tests."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.method.calibration import calibrate, store
from spade_index.server import decoding
from spade_index.settings import Preprocessing, SearchSettings

from helpers.decoding_here import DecodersHere
from helpers.serving import Server
from helpers.tiny import INPUT, TinyCNN, build, tiny_backbone, write_images


@pytest.fixture(scope="session")
def _root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    root = folder / "root"
    tiny = tiny_backbone()
    build(root / "plain", write_images(folder / "images", 12), tiny, shard_rows=5, batch_size=5)
    shutil.copytree(root / "plain", root / "calibrated")
    with Gallery(root / "calibrated") as gallery:
        found = calibrate(gallery, SearchSettings(), false_alarms=0.1, device="cpu")
    with GalleryWriter(root / "calibrated") as writer:
        store(writer, SearchSettings(), found)
    cropping = Preprocessing(input_size=(INPUT, INPUT), resize=40)
    cropped = Backbone("tiny-0", TinyCNN(0), cropping, device="cpu", precision="float32")
    build(root / "cropped", folder / "images", cropped)
    build(root / "other", folder / "images", tiny_backbone(seed=1))
    return root


@pytest.fixture
def root(_root: Path, tmp_path: Path) -> Path:
    """A folder of galleries that a test may change, of 12 images 000.png... of 40x36 pixels each (see `tiny`).

    plain, calibrated (with thresholds), cropped (the backbone sees the middle only), other (another backbone)
    """
    return Path(shutil.copytree(_root, tmp_path / "root"))


@pytest.fixture
def decoding_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let services decode in this process, where a test is not about that: to start others takes most of the time."""
    monkeypatch.setattr(decoding, "DecoderPool", DecodersHere)


@pytest.fixture
def serve(root: Path) -> Iterator[Callable[..., Server]]:
    """A factory: `serve(keys="...", **settings)` serves `root` as Server does, until the test ends."""
    servers = []

    def start(**options: Any) -> Server:
        servers.append(Server(options.pop("root", root), **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def server(serve: Callable[..., Server]) -> Server:
    """A service without API keys, with usual settings, whose galleries a test may change."""
    return serve()


@pytest.fixture(scope="session")
def shared_server(_root: Path) -> Iterator[Server]:
    """The same, for tests that change nothing: started once."""
    server = Server(_root)
    yield server
    server.stop()
