"""The crash campaign with few runs; and that it notices broken stores."""

import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from spade_index.errors import GalleryNotFound
from spade_index.gallery import Gallery, generations
from spade_index.gallery.catalog.catalog import Catalog
from spade_index.gallery.catalog.transaction import Transaction
from spade_index.gallery.store.shard import Shard
from spade_index.gallery.write import cleanup

from durability.campaign import Campaign, Tally
from durability.faults import FaultServer
from durability.model import Operation
from helpers.model import BACKBONE
from helpers.tiny import build, write_images
from helpers.warm import Warm

# Builds a gallery until some of its images are committed, and waits for ever.
BUILD = """
import itertools, sys, threading
from pathlib import Path
from helpers.tiny import build, tiny_backbone
from spade_index.images import loading

decoded, numbers = loading.decoded, itertools.count()
loading.decoded = lambda *given: decoded(*given) if next(numbers) < 60 else threading.Event().wait()
build(Path(sys.argv[1]), Path(sys.argv[2]), tiny_backbone(), workers=2, shard_rows=4, batch_size=4)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder in memory, where flushing costs nothing."""
    path = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    yield path
    shutil.rmtree(path)


def campaign(folder: Path, runs: int = 0, faults: int = 0, flips: int = 0, writers: int = 0) -> tuple[Tally, str]:
    """Run a campaign; return its tally and what it printed."""
    said: list[str] = []
    return Campaign(7, folder, said.append).run(runs, faults, flips, writers), "\n".join(said)


def test_nothing_is_lost_and_no_state_is_broken(folder: Path) -> None:
    tally, said = campaign(folder, runs=24, faults=12, flips=12, writers=4)
    assert (tally.images_lost, tally.broken_states) == (0, 0), said
    assert tally.runs == tally.kills + tally.finished >= 24
    assert tally.kills >= 4, said
    assert tally.faults == tally.faults_refused + tally.faults_survived >= 4
    assert tally.faults_refused > 0
    assert tally.flips_found == tally.flips > 0
    assert tally.readers > 0
    assert tally.commits_in_turn == 24
    assert tally.writers_refused > 0


def slowly(patch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    """Let an action of an operation take as long as all before it, however fast that was, so kills hit it often."""
    perform, action, here = Operation.perform, getattr(owner, name), os.getpid()
    begun = 0.0

    def timed(operation: Operation, path: Path) -> None:
        nonlocal begun
        begun = time.perf_counter()
        perform(operation, path)

    def slow(*arguments: Any) -> Any:
        result = action(*arguments)
        if os.getpid() != here:
            time.sleep(time.perf_counter() - begun)
        return result

    patch.setattr(Operation, "perform", timed)
    patch.setattr(owner, name, slow)


def without_transactions(patch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def every_statement_by_itself(catalog: Catalog) -> Iterator[Any]:
        yield Transaction(catalog._db)

    patch.setattr(Catalog, "transaction", every_statement_by_itself)
    slowly(patch, Transaction, "add_snapshot")


def deaf_to_readers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(generations, "is_held", lambda file: False)


def untidy(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cleanup, "_delete_unnamed", lambda gallery: None)


@pytest.mark.parametrize("broken", [without_transactions, deaf_to_readers, untidy])
def test_a_broken_store_is_noticed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, broken: Callable[[pytest.MonkeyPatch], None]
) -> None:
    broken(monkeypatch)
    tally, said = campaign(folder, runs=40)
    assert tally.broken_states > 0
    assert "to repeat: --seed 7 --only" in said


def test_a_flip_that_is_not_found_is_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gallery, "verify", lambda gallery: iter([]))
    tally, said = campaign(folder, runs=2, flips=8)
    assert tally.flips_found < tally.flips
    assert tally.broken_states > 0
    assert "flip bit" in said


def test_images_that_are_dropped_without_need_are_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shard, "damaged_rows", lambda shard: list(range(shard.rows)))
    tally, _ = campaign(folder, runs=4, flips=20)
    assert tally.images_lost > 0
    assert tally.broken_states > 0


def test_an_operation_that_ends_with_another_error_is_noticed(tmp_path: Path) -> None:
    build(tmp_path / "gallery", write_images(tmp_path / "images", 3), BACKBONE)
    server = FaultServer()
    try:
        with pytest.raises(AssertionError, match=r"ended badly(?s:.*)UnknownImage"):
            server.run(Operation("remove", 1, ids=["nobody"]), tmp_path / "gallery", random.Random(0))
    finally:
        server.close()


def descendants(pid: int) -> set[int]:
    """Return the processes that a process has started, and their descendants."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if fields[0] != "Z":
            parents[int(stat.parent.name)] = int(fields[1])
    found = {pid} if pid in parents else set()
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool]) -> bool:
    """Wait for a condition; return whether it came true in time."""
    for _ in range(600):
        if condition():
            return True
        time.sleep(0.05)
    return False


def committed(path: Path) -> int:
    try:
        with Gallery(path) as gallery:
            return len(gallery)
    except GalleryNotFound:
        return 0


def test_a_killed_build_leaves_no_process(tmp_path: Path) -> None:
    gallery, images = tmp_path / "gallery", write_images(tmp_path / "images", 90)
    with Warm(BUILD, gallery, images) as process:
        assert wait_until(lambda: committed(gallery) >= 4)
        started = descendants(process.pid)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert len(started) >= 2
    assert wait_until(lambda: not any(map(is_running, started)))
    report = build(gallery, images, BACKBONE)
    assert report.unchanged >= 4
    assert report.unchanged + report.added == 90
