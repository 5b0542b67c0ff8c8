"""Statistics and configuration of the Open Inference Protocol, asked by Triton's client."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from spade_index.server import statistics
from spade_index.server.statistics import ModelStatistics, Times

from helpers.http_answers import problem
from helpers.limit_table import LIMITS
from helpers.serving import Server
from helpers.tiny import png
from helpers.uploads import parts

pytestmark = pytest.mark.usefixtures("decoding_here")
QUERY = "/v1/galleries/plain/query"


@pytest.fixture
def asked(server: Server) -> Iterator[tuple[Server, triton.InferenceServerClient]]:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=8) as client:
        yield server, client


def infer(client: triton.InferenceServerClient, *images: bytes, **options: Any) -> None:
    tensor = triton.InferInput("image", [len(images)], "BYTES")
    tensor.set_data_from_numpy(np.array(images, object))
    client.infer("plain", [tensor], **options)


def only(told: dict[str, Any]) -> dict[str, Any]:
    (stats,) = told["model_stats"]
    return dict(stats)


def test_counts_are_those_of_requests_images_and_batches(
    asked: tuple[Server, triton.InferenceServerClient],
) -> None:
    server, client = asked
    before = time.time_ns() // 1_000_000
    for count in (1, 3, 3):
        infer(client, *map(png, range(count)))
    server.query("plain", png(5))
    server.http.post(QUERY, files=parts(("a.png", png(1)), ("b.png", png(2))))
    server.http.post("/v1/galleries/plain/score-map", content=png(4))
    stats = only(client.get_inference_statistics("plain"))
    assert (stats["name"], stats["version"]) == ("plain", client.get_model_metadata("plain")["versions"][-1])
    assert stats["inference_count"] == 11
    assert before <= stats["last_inference"] <= time.time_ns() // 1_000_000
    assert stats["execution_count"] == server.metric("spade_index_batch_images_count")
    assert sum(one["batch_size"] * one["compute_infer"]["count"] for one in stats["batch_stats"]) == 11
    assert sum(one["compute_infer"]["count"] for one in stats["batch_stats"]) == stats["execution_count"]
    parts_ = stats["inference_stats"]
    assert parts_["fail"] == {"count": 0, "ns": 0}
    for part in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert parts_[part]["count"] == 6


def test_times_add_up(asked: tuple[Server, triton.InferenceServerClient]) -> None:
    _, client = asked
    begun = time.perf_counter_ns()
    for seed in range(5):
        infer(client, png(seed))
    took = time.perf_counter_ns() - begun
    parts_ = only(client.get_inference_statistics("plain"))["inference_stats"]
    spent = {part: total["ns"] for part, total in parts_.items()}
    inner = sum(spent[part] for part in ("queue", "compute_input", "compute_infer", "compute_output"))
    assert 0.99 * spent["success"] <= inner <= 1.01 * spent["success"]
    assert 0 < spent["compute_infer"] < spent["success"] < took
    assert spent["compute_input"] > 0


def test_the_wait_in_the_queue_is_its_own(asked: tuple[Server, triton.InferenceServerClient]) -> None:
    server, client = asked
    infer(client, png(1))
    before = only(client.get_inference_statistics("plain"))["inference_stats"]
    with server.watch.held(), ThreadPoolExecutor(2) as pool:
        first = pool.submit(server.query, "plain", png(2))
        server.watch.wait_until_entered()
        second = pool.submit(server.query, "plain", png(3))
        server.wait_until_waiting(1)
        time.sleep(0.5)
        server.watch.release()
        first.result()
        second.result()
    after = only(client.get_inference_statistics("plain"))["inference_stats"]
    spent = {part: after[part]["ns"] - before[part]["ns"] for part in after}
    assert spent["queue"] >= 0.5e9  # of the second,
    assert spent["compute_infer"] >= 0.5e9  # of the first,
    inner = sum(spent[part] for part in ("queue", "compute_input", "compute_infer", "compute_output"))
    assert inner <= 1.01 * spent["success"]  # and neither is counted twice


def test_failures_are_counted(asked: tuple[Server, triton.InferenceServerClient]) -> None:
    server, client = asked
    infer(client, png(1))
    for version in ("", "77"):
        with pytest.raises(InferenceServerException):
            infer(client, b"no image" if version == "" else png(1), model_version=version)
    problem(server.http.post(QUERY, content=b"no image"), 422)
    stats = only(client.get_inference_statistics("plain"))
    assert stats["inference_stats"]["fail"]["count"] == 3
    assert stats["inference_stats"]["fail"]["ns"] > 0
    assert stats["inference_stats"]["success"]["count"] == stats["inference_count"] == 1


def test_each_version_has_its_own(asked: tuple[Server, triton.InferenceServerClient]) -> None:
    server, client = asked
    first = only(client.get_inference_statistics("plain"))["version"]
    infer(client, png(1))
    server.http.post("/v1/galleries/plain/remove", json={"ids": ["003.png"]}).raise_for_status()
    infer(client, png(1), png(2))
    infer(client, png(1), model_version=first)
    told = client.get_inference_statistics("plain")["model_stats"]
    assert {stats["version"]: stats["inference_count"] for stats in told} == {first: 2, str(int(first) + 1): 2}
    assert only(client.get_inference_statistics("plain", first))["inference_count"] == 2
    with pytest.raises(InferenceServerException) as refused:
        client.get_inference_statistics("plain", "77")
    assert refused.value.status() == "404"


def test_a_model_that_was_never_asked_has_zeros(shared_server: Server) -> None:
    stats = only(shared_server.http.get("/v2/models/other/stats").json())
    assert (stats["inference_count"], stats["execution_count"], stats["last_inference"]) == (0, 0, 0)
    assert stats["batch_stats"] == []
    assert shared_server.http.get("/v2/models/nothing/stats").status_code == 404


def test_all_statistics_are_of_models_that_the_key_may_read(serve: Callable[..., Server]) -> None:
    one, all_ = "one-key-0123456789", "all-key-0123456789"
    server = serve(keys=f"{one} other read; {all_} * read")
    for name in ("plain", "other"):
        at = f"/v1/galleries/{name}/query"
        assert server.http.post(at, content=png(1), headers={"X-Api-Key": all_}).status_code == 200
    for key, names in ((one, ["other"]), (all_, ["other", "plain"])):
        told = server.http.get("/v2/models/stats", headers={"X-Api-Key": key}).json()
        assert [stats["name"] for stats in told["model_stats"]] == names
    for end in ("stats", "config", "versions/1/stats", "versions/1/config"):
        answer = server.http.get(f"/v2/models/plain/{end}", headers={"X-Api-Key": one})
        assert answer.status_code == 403


def test_a_model_may_be_called_stats(serve: Callable[..., Server], root: Path) -> None:
    one, all_ = "one-key-0123456789", "all-key-0123456789"
    (root / "other").rename(root / "stats")
    server = serve(keys=f"{one} plain read; {all_} * read")
    headers = {"X-Api-Key": all_}
    for name in ("plain", "stats"):
        assert server.http.post(f"/v1/galleries/{name}/query", content=png(1), headers=headers).status_code == 200
    told = server.http.get("/v2/models/stats", headers=headers).json()
    assert [stats["name"] for stats in told.pop("model_stats")] == ["plain", "stats"]
    of_plain = server.http.get("/v2/models/plain", headers=headers).json()
    assert told["name"] == "stats"
    assert told.keys() == of_plain.keys()
    assert told["inputs"] == of_plain["inputs"]
    told = server.http.get("/v2/models/stats", headers={"X-Api-Key": one}).json()
    assert told.keys() == {"model_stats"}
    assert [stats["name"] for stats in told["model_stats"]] == ["plain"]


def test_limit_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LIMITS["statistics"].default == f"{statistics.STATISTICS:,}"
    monkeypatch.setattr(statistics, "STATISTICS", 3)
    kept = ModelStatistics()
    for snapshot in (1, 2, 3, 1, 4):
        with kept.request("plain") as timed:
            timed.found(snapshot, 2, Times(0, 0, 0))
        for _ in range(5):
            with pytest.raises(ValueError, match="x"), kept.request("plain"):
                raise ValueError("x")
        assert len(kept._kept) <= 3
    assert kept.of("plain", 4)[4].inferences == 2


def test_the_configuration_has_the_shapes_of_the_metadata(asked: tuple[Server, triton.InferenceServerClient]) -> None:
    server, client = asked
    told, metadata = client.get_model_config("plain"), client.get_model_metadata("plain")
    assert (told["name"], told["backend"], told["max_batch_size"]) == ("plain", "spade_index", 0)
    for ours, theirs in (("input", "inputs"), ("output", "outputs")):
        assert {tensor["name"]: tensor["dims"] for tensor in told[ours]} == {
            tensor["name"]: tensor["shape"] for tensor in metadata[theirs]
        }
        kinds = {"TYPE_STRING": "BYTES"}
        for tensor, other in zip(told[ours], metadata[theirs], strict=True):
            kind = tensor["data_type"]
            assert kinds.get(kind, kind.removeprefix("TYPE_")) == other["datatype"]
    assert told["parameters"]["max_images"]["string_value"] == str(server.settings.request_images)
    assert client.get_model_config("plain", "1")["version_policy"] == {"specific": {"versions": [1]}}
    assert {"statistics", "model_configuration"} <= set(client.get_server_metadata()["extensions"])


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 200),
        (b"{}", 200),
        (b'{"ready": true}', 200),
        (b'{"raedy": true}', 422),
        (b'{"ready": 1, "ready": 2}', 422),
    ],
)
def test_the_list_of_models_may_be_of_those_that_are_ready(server: Server, root: Any, body: bytes, status: int) -> None:
    (root / "broken").mkdir()
    (root / "broken" / "catalog.sqlite").write_bytes(b"not a catalog" * 100)
    headers = {"Content-Type": "application/json"}
    answer = server.http.post("/v2/repository/index", content=body, headers=headers)
    assert answer.status_code == status
    if status == 200:
        ready = json.loads(body or b"{}").get("ready", False)
        assert ("broken" in [model["name"] for model in answer.json()]) == (not ready)
