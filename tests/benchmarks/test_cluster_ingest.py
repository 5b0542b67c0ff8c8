"""The benchmark of workers of a cluster: one process, one worker and a build whose driver is killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

from spade_index.benchmarks import cluster_ingest

FEW = ["--images", "8", "--rows", "2", "--wait", "0.02", "--workers", "2", "--kills", "1"]


def test_the_command_measures_kills_and_writes_json(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = [sys.executable, cluster_ingest.__file__, *FEW, "--json", str(file)]
    paths = os.pathsep.join(filter(None, sys.path))  # also of the workers
    printed = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=120, check=True
    )
    figures = json.loads(file.read_text())
    here, there = figures["scaling"]
    assert (here["workers"], there["workers"], there["share_of_linear"]) == (0, 2, 1)
    assert 0 < there["rate"] < 2 / 0.02
    assert 100 < there["bytes_per_image"] < 10_000
    killed = figures["kills"]
    assert (killed["workers_killed"], killed["lost"], killed["different"]) == (1, 0, 0)
    assert killed["images"] == 12 * killed["galleries"]
    assert "share_of_linear" in printed.stdout
