"""The watch goes on whatever fails meanwhile, and says it in one line."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spade_index.errors import GalleryDamaged
from spade_index.sinks.contract import Unreachable
from spade_index.sinks.lines import JsonLines
from spade_index.watch import loop
from spade_index.watch.folder import Arrival

from helpers.watching import QUICK, Judge, images, names, watched


class Absent:
    """A receiver that is away, or comes back after some attempts."""

    name, batch = "absent", 5

    def __init__(self, attempts: int) -> None:
        self.attempts = attempts
        self.got: list[str] = []

    def deliver(self, verdicts: Sequence[str]) -> None:
        """Take verdicts, unless it is away."""
        self.attempts -= 1
        if self.attempts >= 0:
            raise Unreachable("nobody is there")
        self.got += verdicts

    def close(self) -> None:
        """Do nothing."""


def test_an_absent_receiver_gets_all_in_order_when_it_is_back(tmp_path: Path) -> None:
    folder, said = images(tmp_path / "images", 30), []
    away, lines = Absent(1 << 30), JsonLines(tmp_path / "out")
    assert not watched(folder, tmp_path / "state", [lines, away], say=said.append)
    assert len(names(tmp_path / "out")) == 30
    assert said == ["nobody is there"]
    back = Absent(0)
    assert watched(folder, tmp_path / "state", [lines, back])
    assert [record[record.index('"image"') :] for record in back.got] == [
        f'"image": "{number:05d}.png"}}' for number in range(30)
    ]
    assert len(names(tmp_path / "out")) == 30


def test_no_more_is_judged_than_the_spool_holds(tmp_path: Path) -> None:
    folder, said = images(tmp_path / "images", 60), []
    settings = replace(QUICK, spool=16)
    assert not watched(folder, tmp_path / "state", [Absent(1 << 30)], settings, say=said.append)
    assert said == ["nobody is there", "16 verdicts wait for their receiver: nothing more is judged"]
    back = Absent(0)
    assert watched(folder, tmp_path / "state", [back], settings)
    assert len(back.got) == 60


def test_a_gallery_that_cannot_be_read_is_said_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, said, tries = images(tmp_path / "images", 3), [], []

    def judging() -> Judge:
        tries.append(1)
        if len(tries) in (2, 3):
            raise GalleryDamaged("damaged")
        return Judge()

    monkeypatch.setattr(loop.Watch, "_sleep", lambda self: len(tries) < 6 or self.stop())
    settings = replace(QUICK, once=False)
    watched(folder, tmp_path / "state", [JsonLines(tmp_path / "out")], settings, judging, said.append)
    assert said == ["damaged", "gallery: works again"]
    assert len(names(tmp_path / "out")) == 3


def test_a_folder_that_vanishes_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, looks = [], []

    def sleep(self: loop.Watch) -> None:
        looks.append(1)
        if len(looks) == 3:
            images(tmp_path / "images", 2)
        if len(looks) == 5:
            self.stop()

    monkeypatch.setattr(loop.Watch, "_sleep", sleep)
    settings = replace(QUICK, once=False)
    watched(tmp_path / "images", tmp_path / "state", [JsonLines(tmp_path / "out")], settings, say=said.append)
    assert said == [f"{tmp_path / 'images'}: No such file or directory", "folder: works again"]
    assert len(names(tmp_path / "out")) == 2


def test_a_reader_of_standard_output_that_goes_ends_the_watch(tmp_path: Path) -> None:
    class Gone(Absent):
        """A pipe that nobody reads."""

        def deliver(self, verdicts: Sequence[str]) -> None:
            """Fail."""
            raise BrokenPipeError

    folder = images(tmp_path / "images", 2)
    with pytest.raises(BrokenPipeError):
        watched(folder, tmp_path / "state", [Gone(0)])
    back = Absent(0)
    assert watched(folder, tmp_path / "state", [back])
    assert len(back.got) == 2


def test_a_gallery_that_fails_at_every_image_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(Judge):
        """Cannot read a shard."""

        def verdicts(self, arrivals: Sequence[Arrival]) -> list[dict[str, Any]]:
            """Fail."""
            raise GalleryDamaged("damaged")

    folder, said, naps = images(tmp_path / "images", 2), [], []
    monkeypatch.setattr(loop.Watch, "_sleep", lambda self: naps.append(1) or len(naps) < 6 or self.stop())
    watched(folder, tmp_path / "state", [Absent(0)], replace(QUICK, once=False), Failing, said.append)
    assert said == ["damaged"]
