"""The benchmark of a gallery in an object store."""

import copy
import json
import os

import pytest
from click.testing import CliRunner

from spade_index.benchmarks import object_store
from spade_index.benchmarks.harness import WrongResult

FEW = ["--shards", "4", "--rows", "2", "--photographs", "10", "--rounds", "1", "--edge", "64", "--neighbours", "3"]


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What a small run writes, whose processes are this one."""
    file = tmp_path_factory.mktemp("figures") / "figures.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(object_store, "in_own_process", lambda function, *arguments: function(*arguments))
        CliRunner().invoke(object_store.main, [*FEW, "--wait", "0", "--json", str(file)], catch_exceptions=False)
    return json.loads(file.read_text())


def test_requests_and_bytes_are_counted(figures: dict) -> None:
    (store,) = figures["stores"]
    assert all(figures["disk"][step]["requests"] == 0 for step in object_store.STEPS)
    asked = {step: store[step]["requests"] for step in object_store.STEPS}
    assert asked["open"] == 2  # gallery.json and the catalog
    assert asked["reopen"] == 1  # gallery.json
    assert (asked["again"], asked["restarted"]) == (0, 0)
    assert 0 < asked["other"] < asked["first"] < 20
    assert store["push"]["bytes"] > figures["bytes"] - 1000
    assert store["pull"]["requests"] < store["push"]["requests"]


def test_a_table_is_made(figures: dict) -> None:
    head, *lines = object_store.report(figures).splitlines()
    assert head.split() == ["place", "step", "ms", "requests", "MB"]
    assert len(lines) == 6 + 8


def test_other_answers_have_no_figures() -> None:
    found = [{step: {"answer": step} for step in object_store.STEPS}]
    other = copy.deepcopy(found)
    object_store.require_same("S3", found, other)
    other[0]["restarted"]["answer"] = "another"
    with pytest.raises(WrongResult, match="S3: the answer of 'restarted' differs from that of the disk"):
        object_store.require_same("S3", found, other)


def test_the_environment_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "elsewhere")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    server = object_store.MotoServer("http://nowhere")
    with server.named():
        assert (os.environ["AWS_REGION"], os.environ["AWS_ENDPOINT_URL"]) == ("us-east-1", "http://nowhere")
    assert os.environ["AWS_REGION"] == "elsewhere"
    assert "AWS_ENDPOINT_URL" not in os.environ
