"""The GPU benchmark on a CPU: it runs everything, times no wrong result, and survives failures."""

import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from spade_index import kernels
from spade_index.benchmarks.gpu import checks as gpu_checks
from spade_index.benchmarks.gpu import peers as gpu_peers
from spade_index.benchmarks.gpu import search as gpu_search
from spade_index.benchmarks.gpu import tasks as gpu_tasks
from spade_index.benchmarks.gpu import whole as gpu_whole
from spade_index.benchmarks.gpu.runner import Missing, State, Task, Wrong, run_tasks, supervise
from spade_index.benchmarks.gpu.table import table
from spade_index.benchmarks.gpu.workload import SMOKE

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
MODE = "concat-nearest"
PUBLISHED = ("flashlib", "flash-kmeans")
BUDGETS = {"checks": 100.0, "benchmark": 100.0}


def results_of(tasks, path, **options):
    """Run tasks in this process; return their rows by name."""
    state = State(path / "state.json")
    assert run_tasks(tasks, state, time.time() + 60, options.pop("budgets", BUDGETS), **options)
    assert state.running is None
    assert json.loads(state.path.read_text())["rows"] == state.rows
    return {row["name"]: row for row in state.rows}


def contenders(*keys):
    """Return tasks of the first cell of the benchmark."""
    neighbours, batch = SMOKE.cells[0]
    return [Task("benchmark", key, partial(gpu_whole.contend, key, SMOKE, neighbours, batch, CPU)) for key in keys]


def test_the_script_does_everything(tmp_path):
    command = ["bash", ROOT / "benchmarks" / "gpu.sh", "--smoke", "--lanes", "1"]
    environment = {"PATH": "/usr/bin:/bin", "OUT": str(tmp_path), "PYTHON": sys.executable, "COMMIT": "abc"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=170)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    results = json.loads((tmp_path / "cpu_smoke.json").read_text())
    assert results["commit"] == "abc"
    assert list(results["sections"]) == list(gpu_search.BUDGETS)
    assert results["broken"] == []
    rows = [row for section in results["sections"].values() for row in section]
    for row in rows:
        assert row["status"] in ("ok", "missing"), row
        if row["status"] == "missing":
            assert row["reason"].endswith(("needs a CUDA GPU", "a GPU only", "is not installed")), row
    for section, of_section in results["sections"].items():
        assert any(row["status"] == "ok" for row in of_section), section
    for name in ("triton", "torch", "torch-fast"):
        assert all(row["status"] == "ok" for row in results["sections"]["checks"] if row["name"].startswith(f"{name}:"))
    timed = {row["contender"]: row for row in results["sections"]["benchmark"] if row["status"] == "ok"}
    assert set(timed) == set(gpu_peers.CONTENDERS) - {"cupy", "compiled", *PUBLISHED}
    assert all(row["ms"] > 0 and row["exact_matches"] == 1 for row in timed.values())
    assert "== benchmark" in done.stdout


def test_the_script_works_where_the_package_is_installed_and_faiss_is_not(tmp_path):
    installed = shutil.copytree(ROOT / "spade_index", tmp_path / "site" / "spade_index")  # links become folders
    (tmp_path / "faiss.py").write_text("raise ImportError('there is no FAISS')")
    command = ["bash", installed / "benchmarks" / "gpu.sh", "--smoke", "--lanes", "1", "--only", "ceilings"]
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=100
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    results = json.loads((tmp_path / "benchmarks" / "results" / "cpu_smoke.json").read_text())
    assert str(installed) in results["command"]
    assert [row["status"] for row in results["sections"]["ceilings"]] == ["ok"] * 3


@pytest.mark.parametrize(("farthest", "status"), [(False, "ok"), (True, "wrong")])
def test_a_published_peer_is_verified_before_it_is_timed(monkeypatch, tmp_path, farthest, status):
    def flash_knn(x, c, k, *, return_distances):
        assert (x.dtype, c.dtype, return_distances) == (torch.float16, torch.float16, False)
        return torch.cdist(x.float(), c.float()).topk(k, largest=farthest).indices.int()

    for name in ("flashlib", "flashlib.primitives"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "flashlib.primitives.knn", SimpleNamespace(flash_knn=flash_knn))
    rows = results_of(contenders(*PUBLISHED), tmp_path)
    assert rows["flashlib"]["status"] == status
    assert ("ms" in rows["flashlib"]) == (status == "ok")
    assert rows["flash-kmeans"]["reason"] == "flash-kmeans is not installed"


def wrongly(change):
    """Return `nearest_pixels` with one change to its answers."""
    right = kernels.nearest_pixels

    def search(*arguments, **options):
        distances, matches = right(*arguments, **options)
        if options.get("backend") == "reference":
            return distances, matches
        return change(distances, matches)

    return search


CHANGES = {
    "farther": lambda distances, matches: (distances * 1.001, matches),
    "elsewhere": lambda distances, matches: (distances, matches.flip(1)),
    "unwritten": lambda distances, matches: (distances.index_fill(1, torch.tensor([0]), float("nan")), matches),
    "out of range": lambda distances, matches: (distances, matches + 10**6),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_wrong_backend_is_called_wrong_and_not_timed(monkeypatch, tmp_path, change):
    monkeypatch.setattr(kernels, "nearest_pixels", wrongly(CHANGES[change]))
    several = replace(SMOKE, random_cases=3)
    checks = [
        Task("checks", "shaped", partial(gpu_checks.check_shaped, "torch", SMOKE, torch.float16, 1, MODE, CPU)),
        Task("checks", "random", partial(gpu_checks.check_random, "torch", several, 0, CPU, 60.0)),
    ]
    rows = results_of([*checks, *contenders("torch", "cdist")], tmp_path)
    assert {name: row["status"] for name, row in rows.items()} == {
        **dict.fromkeys(("shaped", "random", "torch"), "wrong"),
        "cdist": "ok",
    }
    assert "ms" not in rows["torch"]
    assert rows["cdist"]["ms"] > 0
    assert len(gpu_search.broken(list(rows.values()))) == 3


def test_a_backend_whose_runs_differ_is_wrong(monkeypatch, tmp_path):
    noise = wrongly(lambda distances, matches: (distances * (1 + 1e-6 * torch.rand(())), matches))
    monkeypatch.setattr(kernels, "nearest_pixels", noise)
    checks = [task for task in gpu_tasks.all_tasks(True, 1) if task.name == f"torch: the same {SMOKE.repeats} times"]
    (row,) = results_of(checks, tmp_path).values()
    assert row["status"] == "wrong"


def test_a_missing_package_costs_only_its_rows(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setitem(sys.modules, "spade_index.kernels.fused.triton_backend", None)
    rows = results_of(contenders("triton", "cupy", "unfused", "concatenated"), tmp_path)
    missing = {name for name, row in rows.items() if row["status"] == "missing"}
    assert missing == {"triton", "cupy"}
    assert all("ms" in row for name, row in rows.items() if name not in missing)
    assert gpu_search.broken(list(rows.values())) == []
    shown = table({"sections": {"benchmark": list(rows.values())}, "machine": "here"})
    assert "without triton: triton cannot be imported" in shown


def test_tasks_beyond_the_budget_are_left_out(tmp_path):
    def slow():
        time.sleep(0.02)
        return {}

    tasks = [Task("checks", "first", slow), Task("checks", "second", slow), Task("benchmark", "third", slow)]
    rows = results_of(tasks, tmp_path, budgets={"checks": 0.01, "benchmark": 1.0})
    assert [row["status"] for row in rows.values()] == ["ok", "left out", "ok"]


def test_every_error_of_a_task_is_recorded(tmp_path):
    def raising(error):
        raise error

    errors = {"a": Missing("no such thing"), "b": Wrong("off by one"), "c": RuntimeError("CUDA\nerror")}
    tasks = [Task("checks", name, partial(raising, error)) for name, error in errors.items()]
    rows = results_of(tasks, tmp_path)
    assert [row["status"] for row in rows.values()] == ["missing", "wrong", "failed"]
    assert rows["c"]["reason"] == "RuntimeError: CUDA error"
    state = State(tmp_path / "lost.json")
    again = [*tasks, Task("checks", "d", lambda: {"name": "of a GPU"})]
    assert not run_tasks(again, state, time.time() + 60, BUDGETS, lost=lambda: len(state.rows) == 3)
    assert [row["name"] for row in state.rows] == ["a", "b", "c"]
    assert run_tasks(again, State(state.path), time.time() + 60, BUDGETS)
    assert [row["name"] for row in State(state.path).rows] == ["a", "b", "c", "d"]


WORKER = """
import os, sys, time
from pathlib import Path
from spade_index.benchmarks.gpu.runner import LOST, State, Task, run_tasks

def fail():
    raise RuntimeError("the context is lost")

tasks = [
    Task("checks", "dies", lambda: os._exit(9)),
    Task("checks", "hangs", lambda: time.sleep(60), limit=0.5),
    Task("checks", "spoils", fail),
    Task("checks", "works", dict),
]
state = State(Path(sys.argv[1]))
sys.exit(0 if run_tasks(tasks, state, time.time() + 60, {"checks": 50.0}, lost=lambda: True) else LOST)
"""


def test_workers_that_die_or_hang_cost_one_task(tmp_path):
    paths = [tmp_path / "1.json", tmp_path / "2.json"]
    commands = [([sys.executable, "-c", WORKER, str(paths[0])], paths[0])]
    commands.append(([sys.executable, "-c", "raise SystemExit('no torch')"], paths[1]))
    supervise(commands, time.time() + 60, lambda: None)
    rows = {row["name"]: row for row in State(paths[0]).rows}
    assert [rows[name]["status"] for name in ("dies", "hangs", "spoils", "works")] == ["failed"] * 3 + ["ok"]
    assert "ended with 9" in rows["dies"]["reason"]
    assert "took more than" in rows["hangs"]["reason"]
    assert "lost" in rows["spoils"]["reason"]
    never = State(paths[1]).rows
    assert never
    assert all("no torch" in row["reason"] for row in never)


def test_every_check_has_a_worker_when_there_are_many():
    for smoke in (True, False):
        tasks = gpu_tasks.all_tasks(smoke, 3)
        assert {task.lane for task in tasks if task.section == "checks"} == {1, 2, 3}
        assert {task.lane for task in tasks if task.section != "checks"} == {0}
        names = [(task.section, task.name) for task in tasks]
        assert len(set(names)) == len(names)
        assert {task.section for task in tasks} == set(gpu_search.BUDGETS)


def test_the_committed_results_are_shown():
    shown = table(json.loads((ROOT / "benchmarks" / "results" / "nvidia_h200.json").read_text()))
    assert re.search(r"triton +1\.633 +1\.466 +195\.9 +29\.8% +1\.00x", shown)
    assert "matmul float16" in shown
    assert "100 random searches" in shown


def test_a_scale_of_more_matches_than_the_kernels_count_is_refused():
    with pytest.raises(ValueError, match="the fused kernels count to 2147483647"):
        replace(SMOKE, cells=((2**30, 1),))
