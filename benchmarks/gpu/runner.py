"""How benchmarks/gpu.sh gets through its tasks: workers that are started again, and note all that they have done."""

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]
STARTED = 150.0  # seconds that a worker may take to begin a task
RESTARTS = 25
LOST = 86  # exit status of a worker whose GPU's context is lost


class Missing(Exception):
    """What is to be run is not there: no fault."""


class Wrong(Exception):
    """A result is not right; the message says how far off it is."""


@dataclass(frozen=True)
class Task:
    """One thing to measure, by one worker."""

    section: str
    name: str
    run: Callable[[], Row]
    limit: float = 60.0  # seconds after which it is killed
    lane: int = 0  # which worker's


class State:
    """A worker's file: what it has done, and what it is doing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        found = json.loads(path.read_text()) if path.exists() else {}
        self.rows: list[Row] = found.get("rows", [])
        self.running: Row | None = found.get("running")

    def write(self) -> None:
        """At once, or not at all."""
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"rows": self.rows, "running": self.running}, default=str))
        temporary.replace(self.path)

    def fail(self, reason: str) -> None:
        """What it is doing has come to an end."""
        running = self.running or {"section": "environment", "name": "worker", "since": time.time()}
        seconds = time.time() - running["since"]
        row = {"section": running["section"], "name": running["name"], "seconds": seconds}
        self.rows.append({**row, "status": "failed", "reason": reason})
        self.running = None
        self.write()


def one_line(error: BaseException) -> str:
    """What went wrong, shortly."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:400]


def run_tasks(
    tasks: Sequence[Task],
    state: State,
    deadline: float,
    budgets: Mapping[str, float],
    lost: Callable[[], bool] = lambda: False,
) -> bool:
    """Do what is not done yet; False if the GPU was lost on the way, and the rest is for another process.

    No task is begun after the deadline, or when those of its section have taken more than its budget of seconds.
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
        except Exception as error:  # whatever it is, the others go on
            row |= {"status": "failed", "reason": one_line(error)}
        state.rows.append({**row, "seconds": time.time() - started})
        state.running = None
        state.write()
        if lost():
            return False
    state.write()
    return True


@dataclass
class Worker:
    """A process that does the tasks of a lane, started again when it dies."""

    command: Sequence[str]
    path: Path
    deadline: float
    restarts: int = 0
    done: bool = False
    process: Any = None
    started: float = 0.0
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.path.with_suffix(".log")
        self.start()

    def start(self) -> None:
        """Start the process."""
        self.started = time.time()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*self.command], stdout=log, stderr=log)

    def look(self) -> None:
        """See whether it is still alive and on its way, and do what is to be done if not."""
        status = self.process.poll()
        now = time.time()
        running = State(self.path).running
        if status is None:
            since, limit = (running["since"], running["limit"]) if running else (self._last_written(), STARTED)
            if now < since + limit and now < self.deadline + 15:
                return
            self._end(f"it took more than {now - since:.0f} s")
        elif status == 0:
            self.done = True
            return
        elif status != LOST or running is not None:
            self._end(f"its process ended with {status}: {self._last_words()}")
        self.restarts += 1
        never = running is None and status != LOST
        if self.restarts > (1 if never else RESTARTS) or now > self.deadline:
            self.done = True
        else:
            self.start()

    def _last_written(self) -> float:
        return max(self.started, self.path.stat().st_mtime) if self.path.exists() else self.started

    def _end(self, reason: str) -> None:
        if self.process.poll() is None:
            self.process.kill()
            with suppress(subprocess.TimeoutExpired):  # a driver may not let go of it
                self.process.wait(10)
        State(self.path).fail(reason)

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return " ".join(lines[-2:])[-300:]


def supervise(commands: Sequence[tuple[Sequence[str], Path]], deadline: float, notice: Callable[[], None]) -> None:
    """Have workers do their tasks, all at a time; `notice` is called whenever something may have changed."""
    workers = [Worker(command, path, deadline) for command, path in commands]
    while not all(worker.done for worker in workers):
        time.sleep(0.1)
        for worker in workers:
            if not worker.done:
                worker.look()
        notice()
