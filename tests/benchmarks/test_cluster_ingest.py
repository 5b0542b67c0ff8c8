"""The benchmark of workers of a cluster: one process, one worker and a build whose driver is killed."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from spade_index.benchmarks import cluster_ingest

FEW = ["--images", "8", "--rows", "2", "--wait", "0.02", "--workers", "1", "--kills", "1", "--kill-images", "10"]


@pytest.mark.usefixtures("cluster")
def test_the_command_measures_kills_and_writes_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_ingest, "EVERY", 1.0)  # a worker is killed as soon as it is there
    file = tmp_path / "figures.json"
    printed = CliRunner().invoke(cluster_ingest.main, [*FEW, "--json", str(file)], catch_exceptions=False)
    figures = json.loads(file.read_text())
    here, there = figures["scaling"]
    assert (here["workers"], there["workers"], there["share_of_linear"]) == (0, 1, 1)
    assert 0 < there["rate"] < 2 / 0.02
    assert 100 < there["bytes_per_image"] < 10_000
    killed = figures["kills"]
    assert (killed["workers_killed"], killed["lost"], killed["different"]) == (1, 0, 0)
    assert killed["images"] == 10 * killed["galleries"]
    assert "share_of_linear" in printed.stdout
