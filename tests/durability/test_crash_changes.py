"""A change that is killed at any instant leaves the last commit and the same answers; the next call carries it on."""

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from spade_index.gallery import Gallery, generations
from spade_index.gallery.catalog.transaction import Transaction
from spade_index.gallery.store.leave_one_out import LeaveOneOut
from spade_index.gallery.store.moments import Totals
from spade_index.gallery.store.shard_writer import ShardWriter
from spade_index.gallery.write import cleanup, reindex
from spade_index.gallery.write.session import Session
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.method import calibration

from durability.builds import IMAGES, ROWS, SEARCH, answers, carry_on, committed
from helpers.calls import Target, die_at
from helpers.processes import QUERIES, answers_of, forked, killed
from helpers.tiny import files_of, parts_of

REMOVED = ["001.png", "004.png", "005.png", "017.png"]


@pytest.fixture(scope="module")
def _thinned(tmp_path_factory: pytest.TempPathFactory, whole: Path) -> Path:
    path = shutil.copytree(whole, tmp_path_factory.mktemp("thinned") / "gallery")
    with GalleryWriter(path) as writer:
        writer.remove(REMOVED)
    return path


@pytest.fixture
def thinned(tmp_path: Path, _thinned: Path) -> Path:
    """A gallery from which images were removed."""
    return shutil.copytree(_thinned, tmp_path / "gallery")


def compact(path: Path) -> None:
    with GalleryWriter(path) as writer:
        writer.shard_rows = ROWS
        writer.compact()


COMPACTING: list[tuple[Target, int, bool]] = [
    ((Transaction, "set_meta"), 2, False),  # earlier snapshots are about to be deleted
    ((generations, "prepare"), 2, False),
    ((Gallery, "at"), 3, True),  # they are, the reader not moved
    ((reindex, "build_index"), 1, False),
    ((Transaction, "replace_index"), 1, False),
    ((Transaction, "keep_index"), 1, False),
    ((ShardWriter, "append"), 2, False),
    ((ShardWriter, "commit"), 2, False),
    ((Transaction, "add_shard"), 1, False),
    ((Transaction, "add_shard"), 2, False),
    ((Gallery, "at"), 6, True),  # images have moved
    ((Session, "delete_unused"), 4, False),
]
DELETING: list[tuple[Target, int, bool]] = [
    ((Transaction, "forget_before"), 1, False),
    ((Transaction, "forget_before"), 3, False),
    ((cleanup, "_delete_unnamed"), 2, True),
    ((cleanup, "_delete_unnamed"), 4, False),
    ((Path, "unlink"), 1, True),
    ((Path, "unlink"), 3, True),
]


def check_killed_while_compacting(path: Path, target: Target, call: int, before: bool) -> None:
    """Killed at this instant, it leaves the same answers, and the same command continues."""
    expected = answers(path)[1]

    def run() -> None:
        die_at(target, call, before)
        compact(path)

    assert killed(forked(run))
    for _ in range(2):
        assert committed(path) == IMAGES - len(REMOVED)
        assert answers(path)[1] == expected
        with Gallery(path) as gallery:
            assert gallery.index_row is not None
        compact(path)


def check_tidy(path: Path) -> None:
    """Without readers, the next writer deletes all that is out of use."""
    with GalleryWriter(path):
        pass
    assert files_of(path) == parts_of(path)
    with Gallery(path) as gallery:
        assert len(gallery.catalog.snapshots()) == 1
        assert sum(shard.rows for shard in gallery.catalog.shards().values()) == len(gallery)


def test_an_index_that_was_built_is_kept_when_a_compaction_is_carried_on(thinned: Path) -> None:
    def run() -> None:
        die_at((ShardWriter, "commit"), 2, False)
        compact(thinned)

    assert killed(forked(run))
    with Gallery(thinned) as gallery:
        index, snapshot = gallery.catalog.index(gallery.snapshot), gallery.snapshot
        assert index is not None
    compact(thinned)
    with Gallery(thinned) as gallery:
        assert (gallery.catalog.index(gallery.snapshot), gallery.snapshot) == (index, snapshot)
    check_tidy(thinned)


@pytest.mark.parametrize(("target", "call", "before"), COMPACTING + DELETING)
def test_killed_while_compacting(thinned: Path, target: Target, call: int, before: bool) -> None:
    check_killed_while_compacting(thinned, target, call, before)
    check_tidy(thinned)


WRITING_CALIBRATIONS: list[tuple[Target, int, bool]] = [
    ((LeaveOneOut, "write"), 1, True),
    ((LeaveOneOut, "write"), 1, False),
    ((Transaction, "set_calibration"), 1, True),
    ((Transaction, "set_calibration"), 1, False),
    ((LeaveOneOut, "write"), 2, False),
    ((Transaction, "set_calibration"), 2, False),
]


@pytest.mark.parametrize(("target", "call", "before"), WRITING_CALIBRATIONS)
def test_killed_while_calibrations_are_written_again(
    tmp_path: Path, images: Path, target: Target, call: int, before: bool
) -> None:
    path = tmp_path / "gallery"
    carry_on(path, images)
    with GalleryWriter(path) as writer:
        for search in (SEARCH, replace(SEARCH, smoothing=0)):
            calibration.store(writer, search, calibration.calibrate(writer.gallery, search))
        gone = [writer.gallery.image(id).key for id in REMOVED]
        writer.remove(REMOVED)

    def run() -> None:
        die_at(target, call, before)
        compact(path)

    assert killed(forked(run))
    for expected in (None, (IMAGES - len(REMOVED),) * 2):
        with Gallery(path) as gallery:
            assert list(gallery.verify()) == []
            files = gallery.catalog.calibration_files()
            found = [LeaveOneOut.read(path / "calibrations" / file) for file in files]
        assert all(len(one) == IMAGES or not set(gone) & set(one.keys.tolist()) for one in found)
        if expected is None:
            compact(path)
        else:
            assert tuple(map(len, found)) == expected
    assert {file.name for file in (path / "calibrations").iterdir()} == set(files)


@pytest.mark.parametrize(("target", "call", "before"), COMPACTING)
def test_killed_while_compacting_beside_a_reader(thinned: Path, target: Target, call: int, before: bool) -> None:
    with Gallery(thinned) as reader:
        held = answers_of(reader)
        check_killed_while_compacting(thinned, target, call, before)
        assert answers_of(reader) == held
    check_tidy(thinned)


def test_a_generation_that_was_prepared_and_never_began(thinned: Path) -> None:
    def run() -> None:
        die_at((generations, "prepare"), 2, before=False)
        compact(thinned)

    assert killed(forked(run))
    with GalleryWriter(thinned):
        pass
    journal = {"catalog.sqlite-journal"}  # empty; SQLite deletes it at the next commit
    assert files_of(thinned) - journal == parts_of(thinned)


@pytest.mark.parametrize("target", [(Transaction, "add_snapshot"), (Transaction, "restore_image")])
def test_killed_while_restoring(thinned: Path, target: Target) -> None:
    expected = answers(thinned)

    def run() -> None:
        die_at(target, 1, before=False)
        with GalleryWriter(thinned) as writer:
            writer.restore(REMOVED)

    assert killed(forked(run))
    assert answers(thinned) == expected
    with GalleryWriter(thinned) as writer:
        writer.restore(REMOVED)
    assert committed(thinned) == IMAGES


@pytest.mark.parametrize(("target", "call"), [((Transaction, "add_snapshot"), 1), ((Totals, "minus"), 2)])
def test_killed_while_removing(thinned: Path, target: Target, call: int) -> None:
    expected = answers(thinned)

    def run() -> None:
        die_at(target, call, before=False)
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
    """A reader, used before or not, answers the same while another process commits, indexes and compacts."""

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
