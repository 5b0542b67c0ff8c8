"""Files are complete before they are taken, and come in order of arrival."""

import os
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spade_index.images.files import changed_ns
from spade_index.watch.folder import Arrival, Folder


class Clock:
    """A clock that tests set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def look(folder: Folder, most: int = 10, known: tuple[str, ...] = ()) -> list[str]:
    return [one.name for one in folder.look(most, lambda arrival: arrival.name in known, lambda name: False)]


@pytest.fixture
def clock() -> Clock:
    return Clock()


def write(path: Path, mtime: int, text: str = "x") -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    os.utime(path, (mtime, mtime))


def test_order_is_time_then_name_and_the_queue_is_bounded(tmp_path: Path, clock: Clock) -> None:
    for name, mtime in (("c.png", 5), ("b.png", 7), ("a.png", 7), ("sub/d.png", 1), ("e.txt", 0), (".f.png", 0)):
        write(tmp_path / name, mtime)
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    folder = Folder(str(tmp_path), settle=2, clock=clock)
    assert look(folder) == []
    assert folder.settling == 4
    clock.now = 2
    assert look(folder) == ["sub/d.png", "c.png", "a.png", "b.png"]
    assert look(folder, most=2) == ["sub/d.png", "c.png"]
    assert look(folder, known=("sub/d.png", "a.png")) == ["c.png", "b.png"]


def test_a_file_that_grows_is_not_taken(tmp_path: Path, clock: Clock) -> None:
    folder = Folder(str(tmp_path), settle=2, clock=clock)
    for second in range(5):
        clock.now = second
        write(tmp_path / "a.png", 1, "x" * second)
        assert look(folder) == []
    clock.now = 5.9
    assert look(folder) == []
    clock.now = 6
    assert look(folder) == ["a.png"]


def test_a_file_that_was_complete_under_another_name_is_taken_at_once(tmp_path: Path, clock: Clock) -> None:
    folder = Folder(str(tmp_path), settle=2, clock=clock)
    write(tmp_path / ".a.png.part", 1)
    assert look(folder) == []
    clock.now = 2
    (tmp_path / ".a.png.part").rename(tmp_path / "a.png")
    assert look(folder) == ["a.png"]


def test_even_without_settling_two_looks_are_needed(tmp_path: Path, clock: Clock) -> None:
    folder = Folder(str(tmp_path), settle=0, clock=clock)
    write(tmp_path / "a.png", 1)
    assert look(folder) == []
    assert look(folder) == ["a.png"]


def test_the_id_is_of_the_file_as_it_was_found(tmp_path: Path) -> None:
    write(tmp_path / "a.png", 1)
    status = (tmp_path / "a.png").stat()
    found = Arrival(status.st_mtime_ns, "a.png", str(tmp_path / "a.png"), status.st_size, status.st_ino)
    assert found.is_unchanged()
    write(tmp_path / "a.png", 2)
    assert not found.is_unchanged()
    (tmp_path / "a.png").unlink()
    assert not found.is_unchanged()
    assert len(found.id) == 32
    assert found.id != Arrival(2, "a.png", found.path, found.size, found.inode).id


@pytest.mark.parametrize("year", [-5000, 20_000])
def test_times_that_no_calendar_has_are_the_first_or_last_that_is_told(tmp_path: Path, year: int) -> None:
    status: Any = SimpleNamespace(st_mtime_ns=(year - 1970) * 31_556_952 * 10**9)
    assert datetime.fromtimestamp(changed_ns(status) / 1e9, UTC).year in (1684, 2255)
    write(tmp_path / "a.png", 1)
    os.utime(tmp_path / "a.png", ns=(0, (2400 - 1970) * 31_556_952 * 10**9))
    folder = Folder(str(tmp_path), settle=0)
    look(folder)
    (found,) = folder.look(1, lambda arrival: False, lambda name: False)
    assert datetime.fromtimestamp(found.mtime_ns / 1e9, UTC).year <= 2255
    assert found.is_unchanged()


def test_a_folder_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="gone"):
        look(Folder(str(tmp_path / "gone"), settle=0))
