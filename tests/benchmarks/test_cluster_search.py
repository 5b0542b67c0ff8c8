"""The benchmark of searches by workers of a cluster."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from spade_index.benchmarks import cluster_search
from spade_index.benchmarks.harness import WrongResult
from spade_index.method.detector import Detector
from spade_index.settings import SearchSettings

FEW = ["--images", "6", "--rows", "2", "--queries", "2", "--rounds", "1", "--edge", "64", "--neighbours", "3"]


@pytest.mark.usefixtures("cluster")
def test_the_command_measures_and_writes_json(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    workers = ["--waiting", "1", "--real", "1", "--wait", "0.05"]
    CliRunner().invoke(cluster_search.main, [*FEW, *workers, "--json", str(file)], catch_exceptions=False)
    figures = json.loads(file.read_text())
    for kind in ("waiting", "real"):
        here, there = figures[kind]
        assert (here["workers"], there["workers"], there["share_of_linear"]) == (0, 1, 1)
        assert 0 < there["back"] < there["to_workers"]
    assert figures["waiting"][1]["ms"] >= 3 * 50


def test_other_answers_have_no_figures(gallery_path: Path, decoded, backbone) -> None:
    with cluster_search.Gallery(gallery_path) as gallery:
        few, more = (
            Detector(gallery, backbone, SearchSettings(gallery_neighbours=neighbours)).detect(decoded(1))
            for neighbours in (1, 3)
        )
    cluster_search.require_same(few, few, 1)
    with pytest.raises(WrongResult, match="1 workers: an answer differs"):
        cluster_search.require_same(few, more, 1)
