"""A build that is killed at any instant leaves the last commit, and the same command carries it on to the same end."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from spade_index.gallery import Gallery
from spade_index.gallery.catalog import schema, transaction
from spade_index.gallery.catalog.transaction import Transaction
from spade_index.gallery.store import stream
from spade_index.gallery.store.shard_writer import ShardWriter
from spade_index.gallery.write import reindex
from spade_index.gallery.write.lock import WriterLock

from durability.builds import IMAGES, ROWS, answers, carry_on, committed
from helpers.calls import Target, die_at
from helpers.processes import forked, killed
from helpers.tiny import files_of


def check_carried_on(path: Path, images: Path, whole: Path) -> None:
    """The same command does what is left and no more, and ends as an uninterrupted one does."""
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


INSTANTS: list[tuple[Target, int, bool]] = [
    ((WriterLock, "take"), 1, True),
    ((schema, "now"), 1, True),  # the tables of the new catalog are made
    ((schema, "now"), 2, True),  # its facts are stated
    ((transaction, "now"), 2, False),  # inside the transaction of the second shard
    ((os, "rename"), 1, True),  # of the catalog
    ((os, "rename"), 1, False),
    ((os, "rename"), 3, True),  # of the second shard
    ((os, "rename"), 3, False),
    ((os, "fsync"), 5, True),
    ((stream, "ShardWriter"), 2, False),
    ((ShardWriter, "append"), 5, False),
    ((ShardWriter, "commit"), 3, True),
    ((ShardWriter, "commit"), 3, False),
    ((Transaction, "add_shard"), 2, False),
    ((Transaction, "add_images"), 2, False),
    ((Transaction, "add_images"), IMAGES // ROWS + 1, False),
    ((Gallery, "at"), 4, True),  # the commit was made, the reader not moved
    ((reindex, "build_index"), 1, True),
    ((reindex, "build_index"), 1, False),
    ((reindex, "make_durable"), 1, False),  # of the index
    ((Transaction, "replace_index"), 1, False),
]


@pytest.mark.parametrize(("target", "call", "before"), INSTANTS)
def test_killed_at_an_instant_of_the_build(
    tmp_path: Path, images: Path, whole: Path, target: Target, call: int, before: bool
) -> None:
    path = tmp_path / "gallery"

    def run() -> None:
        die_at(target, call, before)
        carry_on(path, images)

    assert killed(forked(run))
    check_carried_on(path, images, whole)
