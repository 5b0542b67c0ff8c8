"""Killed at any instant, a gallery is at its last commit, and the same command carries it on to the same end."""

import importlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import build, tiny_backbone, write_images

from spade_index.detector import Detector
from spade_index.errors import GalleryError, GalleryNotFound
from spade_index.gallery import Gallery
from spade_index.images import find_images, load
from spade_index.settings import SearchSettings
from spade_index.writer import GalleryWriter

BACKBONE = tiny_backbone()
IMAGES = 20
ROWS = 3
SEARCH = SearchSettings(gallery_neighbours=6)
REMOVED = ["001.png", "004.png", "005.png", "017.png"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "images", IMAGES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """A gallery whose build nothing interrupted."""
    path = tmp_path_factory.mktemp("whole") / "gallery"
    carry_on(path, images)
    return path


def carry_on(path: Path, images: Path) -> Any:
    return build(path, images, BACKBONE, shard_rows=ROWS, batch_size=ROWS)


def forked(action: Callable[[], object]) -> int:
    """Run something in a process of its own; returns its id."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return pid


def killed(pid: int) -> bool:
    """Wait for a process to end; whether a signal ended it. Its own failures fail the test."""
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return os.WIFSIGNALED(status)


def die_at(name: str, call: int, before: bool = True) -> None:
    """Make this process kill itself in the given call of a function, `module:function` or `module:Class.method`."""
    patch = pytest.MonkeyPatch()
    original = importlib.import_module(name.split(":")[0])
    for part in name.split(":")[1].split("."):
        owner, original = original, getattr(original, part)
    left = call

    def dying(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **options)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    patch.setattr(owner, part, dying)


def files_of(path: Path) -> set[str]:
    return {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}


def answers(path: Path) -> list[Any]:
    """Ids, nearest images and score maps, to be compared bit by bit."""
    folder = write_images(path.parent / "queries", 2, seed=9)
    queries = [load(file, BACKBONE.settings.preprocessing) for file in find_images(folder)]
    with Gallery(path) as gallery:
        detections = Detector(gallery, BACKBONE, SEARCH).detect(queries)
        rows = [(row.key, row.id, row.shard, row.row) for row in gallery.images()]
    return [rows, [(d.scores, d.neighbours, d.pixels.score_map.tobytes()) for d in detections]]


def committed(path: Path) -> int:
    """How many images a gallery holds, all of them whole; 0 if it is not there yet."""
    if not (path / "catalog.sqlite").exists():
        with pytest.raises(GalleryNotFound):
            Gallery(path)
        return 0
    with Gallery(path) as gallery:
        assert list(gallery.verify()) == []
        rows = list(gallery.images())
        assert len(rows) == len(gallery)
        for row in rows:
            gallery.maps([row.key])
            assert gallery.nearest(gallery.pooled([row]), 1)[0][0].id == row.id
        return len(rows)


def check_carried_on(path: Path, images: Path, whole: Path) -> None:
    """The same command does what is left and no more, and ends where an uninterrupted one does."""
    before = committed(path)
    report = carry_on(path, images)
    assert (report.unchanged, report.added) == (before, IMAGES - before)
    assert committed(path) == IMAGES
    assert answers(path) == answers(whole)
    assert files_of(path) == files_of(whole)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_killed_at_random_moments(tmp_path: Path, images: Path, whole: Path, seed: int) -> None:
    path, rng = tmp_path / "gallery", random.Random(seed)
    last = 0
    for _ in range(5):
        pid = forked(lambda: carry_on(path, images))
        time.sleep(rng.uniform(0, 0.12))
        os.kill(pid, signal.SIGKILL)
        killed(pid)
        now = committed(path)
        assert now >= last
        assert now % ROWS == 0 or now == IMAGES
        last = now
    check_carried_on(path, images, whole)


INSTANTS = [
    ("spade_index.writer:GalleryWriter._take_lock", 1, True),
    ("spade_index.catalog:_now", 1, True),  # the new catalog has its tables
    ("spade_index.catalog:_now", 2, True),  # and its facts
    ("spade_index.catalog:_now", 4, False),  # inside the transaction of the second shard
    ("os:rename", 1, True),  # of the catalog
    ("os:rename", 1, False),
    ("os:rename", 3, True),  # of the second shard
    ("os:rename", 3, False),
    ("os:fsync", 5, True),
    ("spade_index.shard_stream:ShardWriter", 2, False),
    ("spade_index.shard_stream:ShardWriter.append", 5, False),
    ("spade_index.shard_stream:ShardWriter.commit", 3, True),
    ("spade_index.shard_stream:ShardWriter.commit", 3, False),
    ("spade_index.ingest:insert_shard", 2, False),
    ("spade_index.ingest:insert_images", 2, False),
    ("spade_index.ingest:insert_images", IMAGES // ROWS + 1, False),
    ("spade_index.gallery:Gallery.at", 4, True),  # committed, and not told
    ("spade_index.writer:build_index", 1, True),
    ("spade_index.writer:build_index", 1, False),
    ("spade_index.writer:make_durable", 1, False),  # of the index
    ("spade_index.writer:replace_index", 1, False),
]


@pytest.mark.parametrize(("name", "call", "before"), INSTANTS)
def test_killed_at_an_instant_of_the_build(
    tmp_path: Path, images: Path, whole: Path, name: str, call: int, before: bool
) -> None:
    path = tmp_path / "gallery"

    def run() -> None:
        die_at(name, call, before)
        carry_on(path, images)

    assert killed(forked(run))
    check_carried_on(path, images, whole)


@pytest.fixture
def thinned(tmp_path: Path, images: Path) -> Path:
    """A gallery from which images were removed."""
    path = tmp_path / "gallery"
    carry_on(path, images)
    with GalleryWriter(path) as writer:
        writer.remove(REMOVED)
    return path


def compact(path: Path) -> None:
    with GalleryWriter(path) as writer:
        writer.shard_rows = ROWS
        writer.compact()


@pytest.mark.parametrize(
    ("name", "call", "before"),
    [
        ("spade_index.writer:ShardWriter.append", 2, False),
        ("spade_index.writer:ShardWriter.commit", 2, False),
        ("spade_index.writer:insert_shard", 1, False),
        ("spade_index.gallery:Gallery.at", 2, True),
        ("spade_index.writer:build_index", 1, False),
        ("spade_index.writer:replace_index", 1, False),
        ("pathlib:Path.unlink", 2, True),
    ],
)
def test_killed_while_compacting(thinned: Path, name: str, call: int, before: bool) -> None:
    expected = answers(thinned)[1]

    def run() -> None:
        die_at(name, call, before)
        compact(thinned)

    assert killed(forked(run))
    assert committed(thinned) == IMAGES - len(REMOVED)
    assert answers(thinned)[1] == expected
    compact(thinned)
    assert committed(thinned) == IMAGES - len(REMOVED)
    assert answers(thinned)[1] == expected
    with Gallery(thinned) as gallery:
        named = {f"shards/{row['file']}" for row in gallery.catalog.shards().values()}
        files = [Path("index", file) for file in gallery.catalog.index_files()]
        named |= {path.with_suffix(suffix).as_posix() for path in files for suffix in (".faiss", ".h5")}
    assert files_of(thinned) == named | {"catalog.sqlite", "writer.lock"}


@pytest.mark.parametrize("name", ["spade_index.writer:new_snapshot", "spade_index.writer:GalleryWriter.moments"])
def test_killed_while_removing(thinned: Path, name: str) -> None:
    expected = answers(thinned)

    def run() -> None:
        die_at(name, 1, before=False)
        with GalleryWriter(thinned) as writer:
            writer.remove(["002.png", "003.png"])

    assert killed(forked(run))
    assert answers(thinned) == expected
    with GalleryWriter(thinned) as writer:
        writer.remove(["002.png", "003.png"])
    assert committed(thinned) == IMAGES - len(REMOVED) - 2


def test_a_killed_writer_holds_no_lock(thinned: Path) -> None:
    def run() -> None:
        with GalleryWriter(thinned):
            os.kill(os.getpid(), signal.SIGKILL)

    assert killed(forked(run))
    with GalleryWriter(thinned):
        pass


def test_a_reader_beside_a_writer(thinned: Path, images: Path) -> None:
    """A reader answers the same through another process's commits, and says so once its snapshot is compacted away."""

    def write() -> None:
        for _ in range(3):
            carry_on(thinned, images)
            with GalleryWriter(thinned) as writer:
                writer.remove(REMOVED[::-1])
                writer.build_index()
        time.sleep(0.1)
        compact(thinned)
        time.sleep(0.1)

    queries = np.random.default_rng(1).normal(size=(3, 12)).astype(np.float32)

    def read(gallery: Gallery) -> list[Any]:
        nearest = gallery.nearest(queries, 5)
        keys = [n.key for neighbours in nearest for n in neighbours]
        return [nearest, [level.tobytes() for level in gallery.maps(keys)], [row.id for row in gallery.images()]]

    def until_the_end(pid: int) -> Iterator[None]:
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            yield

    with Gallery(thinned) as fresh, Gallery(thinned) as used:
        expected = read(used)
        pid = forked(write)
        reads = 0
        for _ in until_the_end(pid):
            try:
                assert read(used) == expected
                reads += 1
            except GalleryError:
                assert used.catalog.snapshot(used.snapshot) is None
        assert reads > 3
        for reader in (fresh, used):
            with pytest.raises(GalleryError, match="open it again"):
                reader.nearest(queries, 5)
    with Gallery(thinned) as again:
        assert [n.id for n in again.nearest(queries, 5)[0]] == [n.id for n in expected[0][0]]
