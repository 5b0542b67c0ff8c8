"""Processes that all write to one gallery: one at a time, and the result is that of some order."""

import json
import os
import time
import traceback
from pathlib import Path
from typing import TextIO

from spade_index.errors import GalleryLocked
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter

from durability.model import Operation, State, check_next_writer, check_state
from helpers.model import BACKBONE
from helpers.waiting import eventually

COMMITS = 6  # of each process


def contend(path: Path, processes: int) -> tuple[int, int]:
    """Let processes write; return the number of commits, and of refusals because another process wrote."""
    with GalleryWriter(path, BACKBONE.settings, maps="float16"):
        pass
    children = {}
    for number in range(processes):
        log = path.with_name(f"writer-{number}.log")
        pid = os.fork()
        if pid == 0:
            _write(path, number, log)
        children[pid] = log
    refused, turns = 0, []
    for pid, log in children.items():
        _, status = os.waitpid(pid, 0)
        lines = log.read_text().splitlines()
        assert status == 0, "\n".join(lines)
        refused += sum(line == "refused" for line in lines)
        turns += [json.loads(line) for line in lines if line != "refused"]
        log.unlink()
    path.with_name("met").unlink()
    _check_turns(path, sorted(turns, key=lambda turn: turn["after"]))
    return len(turns), refused


def _check_turns(path: Path, turns: list[dict]) -> None:
    """Check that each turn began at the snapshot where the last one ended, and that the gallery has the final state."""
    state, snapshot = State({}), 0
    for turn in turns:
        assert turn["before"] == snapshot, f"two wrote at the same time: {turns}"
        snapshot = turn["after"]
        state = Operation(**turn["operation"]).states(state)[-1]
    check_state(path, [state], may_lack=False)
    check_next_writer(path)


def _write(path: Path, number: int, log: Path) -> None:
    """Add and remove images of this process whenever the gallery is not locked; then exit."""
    status = 1
    with open(log, "w", buffering=1) as file:
        try:
            for turn in range(COMMITS):
                first = 100 * number + 2 * turn
                operation = Operation("add", 2, {f"{n}.png": n for n in (first, first + 1)})
                if turn % 3 == 2:
                    operation = Operation("remove", 2, ids=[f"{first - 2}.png"])
                while not _try(path, operation, file):
                    time.sleep(0.001 * (1 + number))
            status = 0
        except BaseException:
            file.write(traceback.format_exc())
        finally:
            os._exit(status)


def _try(path: Path, operation: Operation, file: TextIO) -> bool:
    """Run an operation; return False if another process holds the lock. The first waits until that has happened."""
    inside, met = path.with_name("inside"), path.with_name("met")
    try:
        with GalleryWriter(path) as writer:
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails if another process is here
            eventually(met.exists)
            before = writer.gallery.snapshot
            operation.perform_with(writer)
            turn = {"before": before, "after": writer.gallery.snapshot, "operation": vars(operation)}
            file.write(json.dumps(turn) + "\n")
            inside.unlink()
    except GalleryLocked:
        file.write("refused\n")
        met.touch()
        return False
    with Gallery(path) as gallery:
        assert gallery.snapshot >= turn["after"]
    return True
