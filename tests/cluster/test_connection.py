"""Clusters that are not there, and how the cores of one are divided."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from spade_index.cluster.connection import connected, divide
from spade_index.errors import ClusterError

from helpers.cli_runs import BACKBONE, refused


def test_cores_are_divided_among_the_workers() -> None:
    nodes = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 5.0}, {}]
    assert divide(nodes, None, 0) == (2, 5)
    assert divide(nodes, 1, 0) == (1, 8)
    assert divide(nodes, 3, 0) == (3, 4)
    assert divide(nodes, 13, 0) == (13, 1)
    assert divide(nodes, None, 1) == (2, 4)
    assert divide(nodes, None, 0.5) == (4, 2)
    assert divide(nodes, None, 2) == (1, 8)


@pytest.mark.parametrize(
    ("workers", "gpus", "message"),
    [(3, 0.0, "room for 2 workers, not for 3"), (1, 1.0, "room for 0 workers, with 1 of a GPU each, not for 1")],
)
def test_too_few_cores_or_gpus(workers: int, gpus: float, message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        divide([{"CPU": 2.0}], workers, gpus)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999"])
def test_no_cluster_at_the_address(address: str) -> None:
    with pytest.raises(ClusterError, match=f"no Ray cluster at {address}"), connected(address):
        pass


@pytest.mark.parametrize("address", ["auto", "ray://head:10001", "head", ":1"])
def test_an_address_of_another_kind(address: str) -> None:
    with pytest.raises(ClusterError, match="named by HOST:PORT"), connected(address):
        pass


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    told = refused("build", tmp_path, tmp_path / "gallery", *BACKBONE, "--ray", "local")
    assert told == "Ray is not installed: pip install 'spade_index[ray]'"
    assert not (tmp_path / "gallery").exists()


def test_a_cluster_that_does_not_start_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(**options: object) -> None:
        raise Exception("The current node timed out during startup.")

    unloaded = importlib.util.find_spec("ray")  # Ray takes settings from the environment when it is imported
    module = SimpleNamespace(init=slow, is_initialized=lambda: False, __spec__=unloaded)
    monkeypatch.setitem(sys.modules, "ray", module)
    with pytest.raises(ClusterError, match="no Ray cluster at local: The current node timed out"), connected("local"):
        pass


def test_a_folder_whose_name_is_too_long_for_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("long" * 12)
    folder.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    monkeypatch.delitem(sys.modules, "ray", raising=False)  # a program that is connected starts no other cluster
    with pytest.raises(ClusterError, match="set RAY_TMPDIR to a shorter one"), connected("local"):
        pass
    assert list(folder.iterdir()) == []
