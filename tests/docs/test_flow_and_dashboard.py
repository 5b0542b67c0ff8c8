"""The flow for Node-RED reads topics and fields that there are; the dashboard for Grafana, metrics that there are."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from spade_index.server.drift import Normal
from spade_index.server.keys import Keys
from spade_index.server.service import Service
from spade_index.server.settings import ServeSettings
from spade_index.server.verdicts import Outlet
from spade_index.sinks.lines import JsonLines
from spade_index.sinks.spool import Spool

from helpers.documents import ROOT
from helpers.records import VERDICT

FLOW: list[dict[str, Any]] = json.loads((ROOT / "examples" / "node-red-flow.json").read_text())
DASHBOARD: dict[str, Any] = json.loads((ROOT / "examples" / "grafana-dashboard.json").read_text())
GROUPING = re.compile(r"\b(?:by|without) \(([^)]*)\)")


def test_the_flow_is_connected_and_its_topic_is_that_of_the_docs() -> None:
    ids = {node["id"]: node for node in FLOW}
    assert len(ids) == len(FLOW)
    wires = [target for node in FLOW for output in node.get("wires", []) for target in output]
    assert set(wires) <= set(ids)
    reached, todo = set(), [node["id"] for node in FLOW if node["type"] == "mqtt in"]
    while todo:
        reached.add(one := todo.pop())
        todo += [target for output in ids[one]["wires"] for target in output if target not in reached]
    assert reached == {node["id"] for node in FLOW if "wires" in node}
    (source,) = [node for node in FLOW if node["type"] == "mqtt in"]
    assert (source["qos"], source["datatype"]) == ("1", "json")
    assert ids[source["broker"]]["cleansession"] is False
    assert f"/{source['topic']}" in (ROOT / "docs" / "operate.md").read_text()


def fields_of_the_flow() -> Iterator[str]:
    """Yield the fields of verdicts that the flow reads."""
    for node in FLOW:
        texts = [node[name] for name in ("property", "complete", "statusVal") if name in node]
        yield from (text.removeprefix("payload.") for text in texts)
        code = node.get("func", "")
        yield from re.findall(r"(?:msg\.payload|verdict)\.(\w+)", code)


def test_the_flow_reads_fields_that_verdicts_have() -> None:
    assert {"id", "error", "anomalous", "score"} <= set(fields_of_the_flow()) <= set(VERDICT)


def samples(tmp_path: Path) -> dict[str, set[str]]:
    """Return the names of the metrics of a service that has done everything once, and their labels."""
    with Spool(tmp_path / "state") as spool:
        outlet = Outlet(spool, [JsonLines(tmp_path / "out")])
        (tmp_path / "root").mkdir()
        service = Service(ServeSettings(root=tmp_path / "root"), Keys([]), outlet=outlet)
        service.drift._windows["tiles"][b"digest"] = 0.5, 128.0
        service.drift._normal_of = lambda gallery: Normal("", 10, np.arange(10.0))  # type: ignore[method-assign]
        metrics = service.metrics
        metrics.requests.labels("GET", "/", "200").inc()
        metrics.request_seconds.labels("/").observe(1)
        metrics.stage("decode", 1)
        metrics.refused.labels("queue").inc()
        found: dict[str, set[str]] = {}
        for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? ", metrics.text().decode(), re.MULTILINE):
            found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
        return found


def test_the_dashboard_asks_for_metrics_and_labels_that_there_are(tmp_path: Path) -> None:
    known = samples(tmp_path)
    expressions = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    assert len(expressions) > 12
    for expression in expressions:
        names = re.findall(r"\bspade_index_\w+", expression)
        assert names, expression
        assert set(names) <= known.keys(), expression
        labels = {label for name in names for label in known[name]}
        grouped = {label.strip() for found in GROUPING.findall(expression) for label in found.split(",")}
        matched = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"", expression))
        assert grouped | matched <= labels, expression
        assert expression.count("(") == expression.count(")")
        counters = re.findall(r"(?<!rate\()(?<!increase\()\b(spade_index_\w+_(?:total|bucket|sum|count))", expression)
        assert not counters, expression
    shown = [(target["legendFormat"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]
    for legend, expression in shown:
        name = re.findall(r"\bspade_index_\w+", expression)[0]
        assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= known[name], legend


def test_the_panels_do_not_overlap() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)
