"""Tests of the metrics for Prometheus and of the log."""

import json
import logging
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client.parser import text_string_to_metric_families

from spade_index.server.logs import JsonLines

from helpers.serving import Server
from helpers.tiny import png
from helpers.uploads import odd, parts
from helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("decoding_here")

QUERY = "/v1/galleries/plain/query"


def figures(server: Server) -> dict[tuple[str, ...], float]:
    """Values by name and labels' values."""
    answer = server.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_requests_are_counted_by_method_route_and_status(server: Server) -> None:
    for _ in range(3):
        server.query("plain", png(3))
    server.query("other", png(3))
    server.http.post(QUERY, content=b"no image")
    server.http.get("/v1/galleries/plain")
    server.http.get("/nothing/of/that")
    server.http.request("BREW", "/v1")
    found = figures(server)
    name, route = "spade_index_requests_total", "/v1/galleries/{gallery}/query"
    assert found[name, "POST", route, "200"] == 4
    assert found[name, "POST", route, "422"] == 1
    assert found[name, "GET", "/v1/galleries/{gallery}", "200"] == 1
    assert found[name, "GET", "other", "404"] == 1
    assert found["spade_index_request_seconds_count", route] == 5
    assert 0 < found["spade_index_request_seconds_sum", route] < 60


def test_metrics_labels_do_not_grow_with_client_input(server: Server) -> None:
    server.http.get("/v1/galleries/plain")
    server.http.get("/v1/galleries/nothing")
    server.http.request("METHOD-0", "/nothing")
    figures(server)  # which is a route, too
    before = len(figures(server))
    for number in range(30):
        server.http.get(f"/v1/galleries/nothing-{number}")
        server.http.get(f"/nothing-{number}")
        server.http.request(f"METHOD-{number}", "/nothing")
    assert len(figures(server)) <= before + 20


def test_stages_batches_and_the_queue_are_measured(server: Server) -> None:
    server.query("calibrated", png(3))  # needs no score map
    found = figures(server)
    for stage in ("decode", "wait", "backbone", "images"):
        assert found["spade_index_stage_seconds_count", stage] == 1
    shown = server.query("calibrated", odd())
    server.http.get(shown["score_map"]["overlay"])
    eventually(lambda: figures(server)["spade_index_batch_images_count",] == 2)  # counted after its answers are sent
    found = figures(server)
    for stage, count in (("decode", 2), ("wait", 2), ("backbone", 2), ("images", 2), ("pixels", 2), ("render", 1)):
        assert found["spade_index_stage_seconds_count", stage] == count
    assert found["spade_index_batch_images_count",] == 2
    assert found["spade_index_batch_images_sum",] == 2
    assert found["spade_index_queue_images",] == 0
    with server.watch.held(), ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.http.post, QUERY, files=parts(("a", png(1)), ("b", png(2)), ("c", png(3))))
        server.watch.wait_until_entered()
        assert figures(server)["spade_index_queue_images",] == 3
        server.watch.release()
        answer.result()
    eventually(lambda: figures(server)["spade_index_batch_images_sum",] == 5)


def test_open_galleries_maps_and_results_are_measured(server: Server) -> None:
    found = figures(server)
    assert found["spade_index_open_galleries",] == found["spade_index_results",] == 0
    server.query("plain", odd())
    first = figures(server)
    assert first["spade_index_open_galleries",] == 1
    assert first["spade_index_open_bytes",] > 0
    assert (first["spade_index_results",], first["spade_index_maps_total", "memory"]) == (1, 0)
    assert first["spade_index_maps_total", "disk"] > 0
    assert 0 < first["spade_index_results_bytes",] < 100_000
    server.query("plain", odd())
    second = figures(server)
    assert second["spade_index_maps_total", "disk"] == first["spade_index_maps_total", "disk"]
    assert second["spade_index_maps_total", "memory"] > 0


def test_map_counters_never_decrease(server: Server) -> None:
    """Prometheus takes a counter that falls for a service that was started again."""
    server.query("plain", odd())
    server.query("other", odd())
    before = figures(server)["spade_index_maps_total", "disk"]
    for gallery in ("plain", "other"):
        server.http.post(f"/v1/galleries/{gallery}/remove", json={"ids": ["003.png"]})
    server.query("plain", odd())
    assert figures(server)["spade_index_maps_total", "disk"] >= before


def test_every_metric_is_documented(server: Server) -> None:
    server.query("plain", odd())
    text = server.http.get("/metrics").text
    named = {
        re.sub(r"_(total|bucket|sum|count|created)$", "", n) for n in re.findall(r"^(\w+)[{ ]", text, re.MULTILINE)
    }
    described = {re.sub(r"_(total|created)$", "", n) for n in re.findall(r"^# HELP (\w+) .", text, re.MULTILINE)}
    assert named <= described
    assert all(name.startswith("spade_index_") for name in named)


def test_a_request_is_logged_as_a_json_line(shared_server: Server, caplog) -> None:
    with caplog.at_level(logging.INFO, "spade_index.access"):
        answer = shared_server.http.get("/v1/no%0athing\u2028<b>", headers={"X-Request-Id": "mine"})
        shared_server.query("plain", png(3))
        eventually(lambda: len([one for one in caplog.records if one.name == "spade_index.access"]) == 2)
    lines = [JsonLines().format(record) for record in caplog.records if record.name == "spade_index.access"]
    assert not any("\n" in line for line in lines)
    first, second = (json.loads(line) for line in lines)
    assert first["request_id"] == answer.headers["x-request-id"] == "mine"
    assert (first["method"], first["status"], first["client"]) == ("GET", 404, "127.0.0.1")
    assert first["path"] == "/v1/no\nthing\u2028<b>"
    assert (second["path"], second["status"]) == (QUERY, 200)
    assert 0 < second["seconds"] < 60
    assert {"time", "level", "message"} <= set(first)


def test_a_failure_is_logged_as_one_line_with_its_traceback(caplog) -> None:
    logger = logging.getLogger("spade_index.server")
    try:
        raise RuntimeError("of the\ninside")
    except RuntimeError:
        logger.exception("request %s failed", "mine")
    line = JsonLines().format(caplog.records[-1])
    assert "\n" not in line
    assert json.loads(line)["message"] == "request mine failed"
    assert "RuntimeError" in json.loads(line)["traceback"]
