"""Work in processes of their own, so that each one's memory is its own, and what they read and hold.

A peak is the process's VmHWM when it is done, above what its libraries took. `os.wait4` would count what was resident
before `exec` as well: the parent's.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from spade_index.errors import SpadeIndexError

HERE = "spade_index.benchmarks"
CODE = f"from {HERE}.growth_process import main; main()"


class Failed(SpadeIndexError):
    """A process that did not give a result; says why in one line."""


def in_own_process(task: str, *arguments: Any, seconds: float | None = None) -> dict[str, Any]:
    """Call `MODULE:FUNCTION` of this package with values that JSON knows; its result, and `peak_mb`: above `before_mb`.

    Raises Failed if it fails or takes longer than `seconds`.
    """
    with tempfile.TemporaryDirectory(prefix="spade-index-") as folder:
        result, errors = Path(folder, "result.json"), Path(folder, "errors")
        given = json.dumps(arguments, default=str)
        with errors.open("w") as stream:
            child = subprocess.Popen([sys.executable, "-c", CODE, task, given, str(result)], stderr=stream)
            try:
                status = child.wait(seconds)
            except subprocess.TimeoutExpired as error:
                raise Failed(f"was not done after {seconds:,.0f} s") from error
            finally:
                child.kill()
                child.wait()
        if status == 0:
            found: dict[str, Any] = json.loads(result.read_text())
            return found
        lines = errors.read_text(errors="replace").strip().splitlines()
        raise Failed(f"was killed by signal {-status}" if status < 0 else (lines or ["failed"])[-1])


def main() -> None:
    """The process."""
    task, given, result = sys.argv[1:]
    module, _, name = task.partition(":")
    function: Callable[..., dict[str, Any]] = getattr(import_module(f"{HERE}.{module}"), name)
    before = _status("VmRSS") / 1e6  # libraries
    try:
        found = function(*json.loads(given))
    except SpadeIndexError as error:
        sys.exit(str(error))
    Path(result).write_text(json.dumps({**found, "before_mb": before, "peak_mb": _status("VmHWM") / 1e6 - before}))


def resident() -> dict[str, float]:
    """Megabytes of this process that are in memory: its own, and of mapped files, which the system may take back."""
    return {"anonymous_mb": _status("RssAnon") / 1e6, "file_mb": _status("RssFile") / 1e6}


def above(before: dict[str, float]) -> dict[str, float]:
    """What is resident now above what was."""
    return {name: value - before[name] for name, value in resident().items()}


def machine_memory(name: str) -> int:
    """Bytes of memory: MemTotal that the machine has, MemAvailable that it could give to a process."""
    return _value(Path("/proc/meminfo"), name)


def read_from_disk() -> int:
    """Bytes that this process has had read from disk."""
    return _value(Path("/proc/self/io"), "read_bytes")


def forget(paths: Iterable[Path]) -> None:
    """Drop files from the system's cache, but for pages that some process has mapped."""
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)  # what was not written yet stays
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """A result, and the seconds that it took."""
    started = time.perf_counter()
    result = function()
    return result, time.perf_counter() - started


def _status(name: str) -> int:
    return _value(Path("/proc/self/status"), name)


def _value(file: Path, name: str) -> int:
    """Of a line `NAME: VALUE [kB]`, bytes."""
    words = next(line for line in file.read_text().splitlines() if line.startswith(f"{name}:")).split()
    return int(words[1]) * (1024 if words[2:] == ["kB"] else 1)
