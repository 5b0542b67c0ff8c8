"""Files that another program truncates, or overwrites, while they are in use: one error, and the process lives on."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from spade_index.errors import GalleryError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.index import build as build_module
from spade_index.gallery.index import delta
from spade_index.gallery.store.leave_one_out import LeaveOneOut, as_stored
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.settings import IndexSettings

from helpers.processes import forked
from helpers.tiny import random_images

IMAGES = 600
FILES = ("shards/*.h5", "index/*.faiss", "index/*.h5", "calibrations/*.h5", "catalog.sqlite")


def made(folder: Path, backbone: Backbone, images: int = IMAGES) -> Path:
    """Make a gallery of one large shard with an index and scores, and of one shard that the index does not hold."""
    path = folder / "gallery"
    new = random_images(backbone.settings, images)
    with GalleryWriter(path, backbone.settings) as writer:
        writer.add_features(new[:-5])
        writer.build_index(IndexSettings("flat"))
        writer.add_features(new[-5:])
        maps = as_stored([np.ones(8192, np.float32)] * 5)
        found = LeaveOneOut(np.arange(1, 6), {"map": np.arange(5.0)}, maps)
        value = {"thresholds": {"map": 1.0}, "quantile": 0.9, "snapshot": 1, "search": "x", "false_alarms": 0.5}
        writer.set_calibration("x", value, found)
    return path


@pytest.fixture(scope="module", params=["flat", "ivf"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, backbone: Backbone) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_module, "EXACT_LIMIT", 100 if request.param == "ivf" else 20_000)
        return made(tmp_path_factory.mktemp(request.param), backbone)


class Use:
    """All that is read of an open gallery."""

    def __init__(self, path: Path) -> None:
        self.gallery = Gallery(path)
        self.rows = self.gallery.sample(50)
        self.queries = np.random.default_rng(3).normal(size=(20, 12)).astype(np.float32)
        (file,) = (path / "calibrations").iterdir()
        self.scores = LeaveOneOut.read(file)

    def ask(self) -> list[object]:
        found: list[object] = [self.gallery.nearest(self.queries, 10), self.gallery.pooled(self.rows).tobytes()]
        found += [level.tobytes() for level in self.gallery.maps([row.key for row in self.rows])]
        found += [descriptors.tobytes() for _, descriptors in self.gallery.blocks()]
        found += [self.gallery.stored(self.rows[7]).thumbnail, self.gallery.thumbnail(self.rows[8])]
        found += [self.scores.maps_of(np.arange(5)).tobytes()]
        found.append([row.id for row in self.gallery.images()])
        return found


def in_a_process(action: Callable[[], object]) -> None:
    _, status = os.waitpid(forked(action), 0)
    assert os.waitstatus_to_exitcode(status) == 0  # minus 7: SIGBUS


@pytest.mark.parametrize("pattern", FILES)
@pytest.mark.parametrize("left", [0, 0.3, 0.999])
def test_truncated_while_in_use(whole: Path, tmp_path: Path, pattern: str, left: float) -> None:
    path = shutil.copytree(whole, tmp_path / "gallery")

    def run() -> None:
        use = Use(path)
        before = use.ask()
        for file in path.glob(pattern):
            data = file.read_bytes()
            os.truncate(file, int(left * len(data)))
            with suppress(GalleryError):  # a right answer, or that
                assert use.ask() == before
            file.write_bytes(data)  # in place, as `cp` does
            again = Use(path) if pattern == "catalog.sqlite" else use  # SQLite keeps what it read of the other
            assert again.ask() == before

    in_a_process(run)


def test_an_index_that_is_replaced_by_a_longer_one_is_not_used(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "EXACT_LIMIT", 100)
    (tmp_path / "short").mkdir()
    path, short = made(tmp_path, backbone), made(tmp_path / "short", backbone, images=200)
    (file,), (other,) = ((of / "index").glob("*.faiss") for of in (short, path))
    use = Use(short)
    use.ask()
    with open(file, "r+b") as opened:
        opened.write(other.read_bytes())
    with pytest.raises(GalleryError, match="its size has changed while it was in use"):
        use.ask()


def test_images_beyond_the_memory_for_new_ones_are_found(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shutil.copytree(whole, tmp_path / "gallery")
    shutil.rmtree(path / "index")  # so that all are compared
    queries = np.random.default_rng(3).normal(size=(20, 12)).astype(np.float32)
    found = []
    for kept in (0, 48 * 595, 32 << 20):
        monkeypatch.setattr(delta, "KEPT_BYTES", kept)
        with Gallery(path) as gallery:
            found.append(gallery.nearest(queries, 10))
            assert gallery.nearest(queries, 10) == found[-1]
    assert found[0] == found[1] == found[2]
