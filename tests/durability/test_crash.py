"""Killed at any instant, a gallery is at its last commit, and the same command carries it on to the same end."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spade_index.errors import GalleryNotFound
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import find_images, load
from spade_index.method.detector import Detector
from spade_index.settings import SearchSettings

from helpers.processes import QUERIES, answers_of, die_at, forked, killed
from helpers.tiny import build, files_of, parts_of, tiny_backbone, write_images

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


CHANGES = "spade_index.gallery.catalog.transaction:Transaction"
INSTANTS = [
    ("spade_index.gallery.write.lock:WriterLock.take", 1, True),
    ("spade_index.gallery.catalog.schema:now", 1, True),  # the new catalog has its tables
    ("spade_index.gallery.catalog.schema:now", 2, True),  # and its facts
    ("spade_index.gallery.catalog.transaction:now", 2, False),  # inside the transaction of the second shard
    ("os:rename", 1, True),  # of the catalog
    ("os:rename", 1, False),
    ("os:rename", 3, True),  # of the second shard
    ("os:rename", 3, False),
    ("os:fsync", 5, True),
    ("spade_index.gallery.store.stream:ShardWriter", 2, False),
    ("spade_index.gallery.store.stream:ShardWriter.append", 5, False),
    ("spade_index.gallery.store.stream:ShardWriter.commit", 3, True),
    ("spade_index.gallery.store.stream:ShardWriter.commit", 3, False),
    (f"{CHANGES}.add_shard", 2, False),
    (f"{CHANGES}.add_images", 2, False),
    (f"{CHANGES}.add_images", IMAGES // ROWS + 1, False),
    ("spade_index.gallery.reader:Gallery.at", 4, True),  # committed, and not told
    ("spade_index.gallery.write.reindex:build_index", 1, True),
    ("spade_index.gallery.write.reindex:build_index", 1, False),
    ("spade_index.gallery.write.reindex:make_durable", 1, False),  # of the index
    (f"{CHANGES}.replace_index", 1, False),
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


COMPACTING = [
    (f"{CHANGES}.set_meta", 1, False),  # history is about to be forgotten
    ("spade_index.gallery.generations:prepare", 2, False),
    ("spade_index.gallery.reader:Gallery.at", 3, True),  # it is, and nobody was told
    ("spade_index.gallery.write.reindex:build_index", 1, False),
    (f"{CHANGES}.replace_index", 1, False),
    ("spade_index.gallery.write.move:ShardWriter.append", 2, False),
    ("spade_index.gallery.write.move:ShardWriter.commit", 2, False),
    (f"{CHANGES}.add_shard", 1, False),
    (f"{CHANGES}.add_shard", 2, False),
    ("spade_index.gallery.reader:Gallery.at", 6, True),  # rows have moved
    ("spade_index.gallery.write.session:Session.delete_unused", 4, False),
]
FORGETTING = [
    (f"{CHANGES}.forget_before", 1, False),
    (f"{CHANGES}.forget_before", 3, False),
    ("spade_index.gallery.write.cleanup:_delete_unnamed", 2, True),
    ("spade_index.gallery.write.cleanup:_delete_unnamed", 4, False),
    ("pathlib:Path.unlink", 1, True),
    ("pathlib:Path.unlink", 3, True),
]


def check_killed_while_compacting(path: Path, name: str, call: int, before: bool) -> None:
    """Whatever instant it is killed at, the answers stay, and the same command carries on."""
    expected = answers(path)[1]

    def run() -> None:
        die_at(name, call, before)
        compact(path)

    assert killed(forked(run))
    for _ in range(2):
        assert committed(path) == IMAGES - len(REMOVED)
        assert answers(path)[1] == expected
        compact(path)


def check_nothing_is_left(path: Path) -> None:
    """When nobody reads any more, the next writer has made all the room that there was to be made."""
    with GalleryWriter(path):
        pass
    assert files_of(path) == parts_of(path)
    with Gallery(path) as gallery:
        assert len(gallery.catalog.snapshots()) == 1
        assert sum(shard.rows for shard in gallery.catalog.shards().values()) == len(gallery)


@pytest.mark.parametrize(("name", "call", "before"), COMPACTING + FORGETTING)
def test_killed_while_compacting(thinned: Path, name: str, call: int, before: bool) -> None:
    check_killed_while_compacting(thinned, name, call, before)
    check_nothing_is_left(thinned)


@pytest.mark.parametrize(("name", "call", "before"), COMPACTING)
def test_killed_while_compacting_beside_a_reader(thinned: Path, name: str, call: int, before: bool) -> None:
    with Gallery(thinned) as reader:
        held = answers_of(reader)
        check_killed_while_compacting(thinned, name, call, before)
        assert answers_of(reader) == held
    check_nothing_is_left(thinned)


def test_a_generation_that_was_prepared_and_never_began(thinned: Path) -> None:
    def run() -> None:
        die_at("spade_index.gallery.generations:prepare", 2, before=False)
        compact(thinned)

    assert killed(forked(run))
    with GalleryWriter(thinned):
        pass
    journal = {"catalog.sqlite-journal"}  # holds nothing, and is SQLite's, which deletes it at the next commit
    assert files_of(thinned) - journal == parts_of(thinned)


@pytest.mark.parametrize("name", [f"{CHANGES}.add_snapshot", f"{CHANGES}.restore_image"])
def test_killed_while_restoring(thinned: Path, name: str) -> None:
    expected = answers(thinned)

    def run() -> None:
        die_at(name, 1, before=False)
        with GalleryWriter(thinned) as writer:
            writer.restore(REMOVED)

    assert killed(forked(run))
    assert answers(thinned) == expected
    with GalleryWriter(thinned) as writer:
        writer.restore(REMOVED)
    assert committed(thinned) == IMAGES


@pytest.mark.parametrize(
    "name",
    [f"{CHANGES}.add_snapshot", "spade_index.gallery.store.moments:Totals.minus"],
)
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
    """A reader answers the same through another process's commits, indexes and compactions, first use or not."""

    def write() -> None:
        for _ in range(3):
            carry_on(thinned, images)
            with GalleryWriter(thinned) as writer:
                writer.remove(REMOVED[::-1])
                writer.build_index()
            compact(thinned)

    def until_the_end(pid: int) -> Iterator[None]:
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            yield

    with Gallery(thinned) as fresh, Gallery(thinned) as used:
        expected = answers_of(used)
        pid = forked(write)
        reads = 0
        for _ in until_the_end(pid):
            assert answers_of(used) == expected
            with Gallery(thinned) as passing:
                assert answers_of(passing)
            reads += 1
        assert reads > 3
        assert answers_of(fresh) == answers_of(used) == expected
    with Gallery(thinned) as again:
        assert [n.id for n in again.nearest(QUERIES, 5)[0]] == [n.id for n in expected[0][0]]
    with GalleryWriter(thinned):
        pass
    assert files_of(thinned) == parts_of(thinned)
