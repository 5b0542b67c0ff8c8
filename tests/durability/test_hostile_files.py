"""The campaign of hostile files with few galleries; and that it notices faults."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from copy import copy
from pathlib import Path

import pytest

from spade_index.gallery.catalog import connection
from spade_index.gallery.store import files
from spade_index.gallery.store.shard import Shard

from durability import hostile_uses
from durability.hostile import Campaign, Tally

COUNT = 12  # galleries; `durability.hostile` changes more
UNTIL = 60  # galleries, by which a fault is noticed


@pytest.fixture(scope="module")
def prepared() -> Iterator[Campaign]:
    """A campaign with its galleries, which take longer to make than to use."""
    path = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    yield Campaign(path, 5)
    shutil.rmtree(path)


@pytest.fixture
def campaign(prepared: Campaign, said: list[str]) -> Campaign:
    """A campaign that has not begun."""
    new = copy(prepared)
    new.tally, new.say = Tally(), said.append
    return new


@pytest.fixture
def said() -> list[str]:
    """What the campaign says."""
    return []


def test_every_use_of_changed_files_is_right_or_one_line(campaign: Campaign, said: list[str]) -> None:
    tally = campaign.run(COUNT)
    assert (tally.faults, tally.touched) == (0, 0), "\n".join(said)
    assert tally.galleries == COUNT
    assert min(tally.right, tally.refused) > COUNT // 2


def careless_about_links(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(connection, "require_own_files", lambda path: None)
    patch.setattr(files, "require_regular", lambda fd: None)
    patch.setattr(files.os, "O_NOFOLLOW", 0)


def raising_anything(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Shard, "thumbnail", lambda shard, row: {}["thumbnail"])


def dying(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Shard, "read_maps", lambda *given: os.kill(os.getpid(), 11))


@pytest.mark.parametrize("faulty", [careless_about_links, raising_anything, dying])
def test_faults_are_noticed(
    campaign: Campaign, said: list[str], monkeypatch: pytest.MonkeyPatch, faulty: Callable[[pytest.MonkeyPatch], None]
) -> None:
    faulty(monkeypatch)
    monkeypatch.setattr(hostile_uses, "SECONDS", 3)
    while not campaign.tally.faults and campaign.tally.galleries < UNTIL:
        campaign.run(1, only=campaign.tally.galleries)
    assert f"--only {campaign.tally.galleries - 1} --seed 5" in said[0]
