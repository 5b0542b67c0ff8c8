"""Kills at any moment: each verdict is delivered at least once, under one id, and no image is judged twice."""

import json
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from spade_index.sinks.lines import JsonLines

from helpers.processes import forked, killed
from helpers.watching import images, names, watched

KILLS = 8  # more of them: durability/watch_campaign.py
IMAGES = 100
SECONDS = 0.15  # within which a process is killed


class Dying(JsonLines):
    """Kills its process between delivery and note."""

    batch = 10

    def deliver(self, verdicts: Sequence[str]) -> None:
        """Deliver, and die."""
        super().deliver(verdicts)
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_between_delivery_and_note_repeats_the_last_verdicts_alone(tmp_path: Path) -> None:
    folder, out = images(tmp_path / "images", 12), tmp_path / "out"
    assert killed(forked(lambda: watched(folder, tmp_path / "state", [Dying(out)])))
    before = names(out)
    assert before == ["00000.png", "00001.png", "00002.png", "00003.png"]
    assert watched(folder, tmp_path / "state", [JsonLines(out)])
    assert names(out) == [*before, *(f"{number:05d}.png" for number in range(12))]
    lines = list(map(json.loads, out.read_text().splitlines()))
    assert [line["id"] for line in lines[:4]] == [line["id"] for line in lines[4:8]]


def test_kills_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    folder, out = images(tmp_path / "images", IMAGES), tmp_path / "out"
    moments = random.Random(1)
    for _ in range(KILLS):
        pid = forked(lambda: watched(folder, tmp_path / "state", [JsonLines(out)]))
        time.sleep(moments.uniform(0, SECONDS))
        os.kill(pid, signal.SIGKILL)
        killed(pid)
    assert watched(folder, tmp_path / "state", [JsonLines(out)])
    ids = [json.loads(line)["id"] for line in out.read_text().splitlines()]
    first = list(dict.fromkeys(names(out)))
    assert first == [f"{number:05d}.png" for number in range(IMAGES)]
    assert len(set(ids)) == IMAGES
    size = out.stat().st_size
    assert watched(folder, tmp_path / "state", [JsonLines(out)])
    assert out.stat().st_size == size
