"""Check the pixel search on this GPU, and time it. benchmarks/gpu.sh starts this.

    python -m spade_index.benchmarks.gpu.search [--results benchmarks/results] [--smoke] [--minutes 6.75]

Work is cut into tasks, the most valuable first, that workers run and record. Whatever happens to a worker (a kernel
hangs, spoils the GPU's context or kills the process) costs one task: the next worker goes on. Checks run in many
workers at a time, since compilers take most of the time; what is timed has the GPU to itself.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from spade_index.benchmarks.gpu.runner import LOST, Row, State, run_tasks, supervise
from spade_index.benchmarks.gpu.table import table
from spade_index.benchmarks.harness import environment, write_json

LANES = 10  # workers that check at a time
MINUTES = 6.75
BUDGETS = {"checks": 120.0, "ceilings": 20.0, "benchmark": 200.0}
"""The sections, and the seconds of each worker after which it starts no more tasks of one."""
PACKAGES = ("torch", "triton", "cupy-cuda13x", "numpy")
CLOCKS = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.draw,power.limit,temperature.gpu"


def work(arguments: argparse.Namespace) -> int:
    """Run a worker's tasks; return its exit status."""
    import torch

    from spade_index.benchmarks.gpu import tasks, timing

    def lost() -> bool:
        try:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
        except RuntimeError:
            return True
        return timing.failed_captures > 0

    torch.set_num_threads(2 if arguments.worker else max(1, (os.cpu_count() or 2) // 2))
    only = arguments.only.split(",") if arguments.only else list(BUDGETS)
    every = tasks.all_tasks(arguments.smoke, arguments.lanes)
    mine = [task for task in every if task.lane == arguments.worker and task.section in only]
    return 0 if run_tasks(mine, State(arguments.state), arguments.deadline, BUDGETS, lost) else LOST


def describe(smoke: bool) -> Row:
    """Return machine, versions and commit; the environment's COMMIT stands in where there is no git."""
    found = environment(PACKAGES)
    found["commit"] = os.environ.get("COMMIT") or found["commit"]
    return {**found, "gpu": gpu(), "smoke": smoke, "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def gpu() -> dict[str, str]:
    """Return what nvidia-smi reports of the GPU, empty without it."""
    command = ["nvidia-smi", f"--query-gpu={CLOCKS}", "--format=csv,noheader"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(CLOCKS.split(","), shown.stdout.strip().splitlines()[0].split(", "), strict=False))


def broken(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that report a fault of ours."""
    return [r for r in rows if r["status"] == "wrong" or (r["section"] == "checks" and r["status"] == "failed")]


def run(arguments: argparse.Namespace) -> int:
    """Run all workers, write the results after every task, and return the exit status."""
    started = time.time()
    deadline = started + 60 * arguments.minutes
    results = describe(arguments.smoke)
    name = re.sub(r"\W+", "_", results["gpu"].get("name") or "cpu").strip("_").lower()
    arguments.results.mkdir(parents=True, exist_ok=True)
    target = arguments.results / f"{name}{'_smoke' if arguments.smoke else ''}.json"
    if arguments.smoke:
        os.environ["TRITON_INTERPRET"] = "1"
    seen: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="gpu-search-") as folder:

        def write() -> None:
            rows = [row for path in sorted(Path(folder).glob("*.json")) for row in State(path).rows]
            if len(rows) == len(seen):
                return
            for row in rows:
                if row not in seen:
                    line = f"{row['section']}: {row['name']}: {row['status']} {row.get('reason', '')}"
                    print(f"{time.time() - started:5.0f} s  {line[:200]}", flush=True)
            seen[:] = rows
            results["sections"] = {section: [row for row in rows if row["section"] == section] for section in BUDGETS}
            results["seconds"] = time.time() - started
            results["broken"] = [f"{row['section']}: {row['name']}: {row.get('reason')}" for row in broken(rows)]
            write_json(target, results)

        def command(lane: int) -> tuple[list[str], Path]:
            path = Path(folder) / f"{lane:02}.json"
            options = ["--worker", lane, "--lanes", arguments.lanes, "--state", path, "--deadline", deadline]
            options += ["--smoke"] * arguments.smoke + ["--only", arguments.only] * bool(arguments.only)
            return [sys.executable, "-m", "spade_index.benchmarks.gpu.search", *map(str, options)], path

        if arguments.lanes > 1:
            supervise([command(lane) for lane in range(1, arguments.lanes + 1)], deadline, write)
        supervise([command(0)], deadline, write)
        write()
    print(f"wrote {target}")
    return 1 if broken(seen) or not any(row["status"] == "ok" for row in seen) else 0


def main(given: Sequence[str] | None = None) -> int:
    """Parse the command line, and run, work or show."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"), help="folder of the JSON file")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, on a CPU, in Triton's interpreter")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--lanes", type=int, default=LANES, help="workers that check at a time; 1: one for everything")
    parser.add_argument("--only", help=f"sections, of {','.join(BUDGETS)}")
    parser.add_argument("--show", type=Path, help="print the table of a JSON file, and do nothing else")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--state", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    if arguments.show:
        print(table(json.loads(arguments.show.read_text())))
        return 0
    return run(arguments) if arguments.worker is None else work(arguments)


if __name__ == "__main__":
    sys.exit(main())
