"""A watch with a judge that takes no time, in processes that tests kill."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from spade_index.sinks.contract import Sink
from spade_index.watch.folder import Arrival, Folder
from spade_index.watch.loop import Watch
from spade_index.watch.settings import WatchSettings
from spade_index.watch.state import State

QUICK = WatchSettings(interval=0.01, settle=0, queue=16, once=True)


class Judge:
    """Gives every image the same verdict."""

    lot = 4

    def is_mask(self, name: str) -> bool:
        """No image is a mask."""
        return False

    def verdicts(self, arrivals: Sequence[Arrival]) -> list[dict[str, Any]]:
        """Return a record for each."""
        return [{"id": one.id, "arrival": one.mtime_ns, "image": one.name} for one in arrivals]


def watched(
    folder: Path,
    state: Path,
    sinks: Iterable[Sink],
    settings: WatchSettings = QUICK,
    judging: Callable[[], Judge] = Judge,
    say: Callable[[str], None] = lambda line: None,
) -> bool:
    """Watch a folder; return whether all is delivered."""
    with State(state) as opened:
        return Watch(Folder(str(folder), settings.settle), opened, list(sinks), judging, settings, say).run()


def images(folder: Path, count: int, start: int = 0) -> Path:
    """Write files that arrive one second after the other."""
    folder.mkdir(exist_ok=True)
    for number in range(start, start + count):
        path = folder / f"{number:05d}.png"
        path.write_text(str(number))
        os.utime(path, (number, number))
    return folder


def names(path: Path) -> list[str]:
    """Return the images of a file of lines, in its order."""
    return [json.loads(line)["image"] for line in path.read_text().splitlines()]
