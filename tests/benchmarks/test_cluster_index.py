"""The benchmark of the image level by workers of a cluster."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from spade_index.benchmarks import cluster_index
from spade_index.benchmarks.harness import WrongResult
from spade_index.cluster.image_level import CrewImages
from spade_index.gallery import Gallery
from spade_index.gallery.index import build as build_module


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A gallery whose index has lists."""
    monkeypatch.setattr(build_module, "EXACT_LIMIT", 100)
    cluster_index.build(tmp_path / "work", 400, 0.9)
    return tmp_path / "work"


@pytest.mark.usefixtures("cluster")
def test_the_command_measures_and_writes_json(work: Path, tmp_path: Path) -> None:
    few = ["--queries", "3", "--neighbours", "5", "--rounds", "1", "--waiting", "1", "--real", "1"]
    file = tmp_path / "figures.json"
    CliRunner().invoke(cluster_index.main, [str(work), *few, "--json", str(file)], catch_exceptions=False)
    figures = json.loads(file.read_text())
    for kind in ("waiting", "real"):
        here, there = figures[kind]
        assert (here["workers"], there["workers"], there["share_of_linear"]) == (0, 1, 1)
        assert there["to_workers"] > 4 * cluster_index.DIM
        assert there["back"] > 0
    probes = figures["index"]["nprobe"]
    assert figures["waiting"][1]["ms"] >= 1e3 * figures["wait_s"] * probes
    assert figures["list_bytes"] == 400 * 200 * probes / figures["index"]["nlist"]


@pytest.mark.usefixtures("cluster")
def test_other_neighbours_have_no_figures(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = np.zeros((2, cluster_index.DIM), np.float32)
    nearest = CrewImages.nearest
    monkeypatch.setattr(CrewImages, "nearest", lambda self, pooled, k: nearest(self, pooled + 1, k))
    with Gallery(work) as gallery, pytest.raises(WrongResult, match="1 workers: neighbours differ"):
        cluster_index.compared(gallery, [1], queries, 5, 1)
