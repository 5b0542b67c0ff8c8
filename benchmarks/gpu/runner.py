"""Run tasks in worker processes that are restarted when they die, and record every result in a file."""

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spade_index.benchmarks.harness import one_line

Row = dict[str, Any]
STARTED = 150.0  # seconds that a worker may take to begin a task
RESTARTS = 25
LOST = 86  # exit status of a worker whose GPU context is lost


class Missing(Exception):
    """Something that a task needs is not installed or not present; not a fault."""


class Wrong(Exception):
    """A result is wrong; the message says how far off it is."""


@dataclass(frozen=True)
class Task:
    """One measurement, by one worker."""

    section: str
    name: str
    run: Callable[[], Row]
    limit: float = 60.0  # seconds after which its worker is killed
    lane: int = 0  # the worker's number


class State:
    """A worker's file: its results, and the task that it is running."""

    def __init__(self, path: Path) -> None:
        self.path = path
        found = json.loads(path.read_text()) if path.exists() else {}
        self.rows: list[Row] = found.get("rows", [])
        self.running: Row | None = found.get("running")

    def write(self) -> None:
        """Replace the file atomically."""
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"rows": self.rows, "running": self.running}, default=str))
        temporary.replace(self.path)

    def fail(self, reason: str) -> None:
        """Record that the running task failed."""
        running = self.running or {"section": "checks", "name": "worker", "since": time.time()}
        row = {"section": running["section"], "name": running["name"], "seconds": time.time() - running["since"]}
        self.rows.append({**row, "status": "failed", "reason": reason})
        self.running = None
        self.write()


def run_tasks(
    tasks: Sequence[Task],
    state: State,
    deadline: float,
    budgets: Mapping[str, float],
    lost: Callable[[], bool] = lambda: False,
) -> bool:
    """Run the tasks that have no result yet; return False if the GPU was lost and another process must go on.

    No task starts after the deadline, or once those of its section have taken more than its budget of seconds.
    """
    done = {(row["section"], row["name"]) for row in state.rows}
    for task in tasks:
        if (task.section, task.name) in done:
            continue
        row: Row = {"section": task.section, "name": task.name}
        spent = sum(other["seconds"] for other in state.rows if other["section"] == task.section)
        if time.time() > deadline or spent > budgets[task.section]:
            state.rows.append({**row, "seconds": 0.0, "status": "left out", "reason": "no time was left"})
            continue
        started = time.time()
        state.running = {**row, "since": started, "limit": task.limit}
        state.write()
        try:
            row = {"status": "ok", **task.run(), **row}
        except Missing as error:
            row |= {"status": "missing", "reason": str(error)}
        except Wrong as error:
            row |= {"status": "wrong", "reason": str(error)}
        except Exception as error:  # the other tasks still run
            row |= {"status": "failed", "reason": one_line(error)}
        state.rows.append({**row, "seconds": time.time() - started})
        state.running = None
        state.write()
        if lost():
            return False
    state.write()
    return True


class Worker:
    """A process that runs the tasks of a lane, restarted when it dies or hangs."""

    def __init__(self, command: Sequence[str], path: Path, deadline: float) -> None:
        self.command, self.path, self.deadline = command, path, deadline
        self.log = path.with_suffix(".log")
        self.restarts, self.done = 0, False
        self.start()

    def start(self) -> None:
        """Start the process."""
        self.started = time.time()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*self.command], stdout=log, stderr=log)

    def look(self) -> None:
        """Check whether the process is alive and in time; restart it if not."""
        status, now, running = self.process.poll(), time.time(), State(self.path).running
        if status == 0:
            self.done = True
            return
        if status is None:
            written = max(self.started, self.path.stat().st_mtime) if self.path.exists() else self.started
            since, limit = (running["since"], running["limit"]) if running else (written, STARTED)
            if now < since + limit and now < self.deadline + 15:
                return
            self.process.kill()
            with suppress(subprocess.TimeoutExpired):  # a driver may not release it
                self.process.wait(10)
            State(self.path).fail(f"it took more than {now - since:.0f} s")
        elif status != LOST or running is not None:
            words = " ".join(self.log.read_text(errors="replace").strip().splitlines()[-2:])[-300:]
            State(self.path).fail(f"its process ended with {status}: {words}")
        self.restarts += 1
        at_most = 1 if running is None and status != LOST else RESTARTS  # it may never start at all
        self.done = self.restarts > at_most or now > self.deadline
        if not self.done:
            self.start()


def supervise(commands: Sequence[tuple[Sequence[str], Path]], deadline: float, notice: Callable[[], None]) -> None:
    """Run one worker for each command and state file; call `notice` whenever results may have changed."""
    workers = [Worker(command, path, deadline) for command, path in commands]
    while not all(worker.done for worker in workers):
        time.sleep(0.1)
        for worker in workers:
            if not worker.done:
                worker.look()
        notice()
