"""Verdicts of queries reach every receiver, from a spool, and never hold up a query."""

import base64
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from spade_index.server.verdicts import Outlet
from spade_index.sinks.contract import Sink, Unreachable
from spade_index.sinks.lines import JsonLines
from spade_index.sinks.mqtt import Mqtt
from spade_index.sinks.spool import Spool, SpoolError
from spade_index.sinks.webhook import Webhook

from helpers.broker import Subscriber, broker, free_port
from helpers.cli_runs import BACKBONE, run, write_normal
from helpers.receiver import receiver
from helpers.records import VERDICT
from helpers.service_process import Process
from helpers.serving import Server
from helpers.tiny import png
from helpers.uploads import odd
from helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("decoding_here")
KEY = "a-key-of-16-bytes-or-more"
Serve = Callable[..., Server]


class Gate:
    """A sink that is away until it is opened, or fails as it is told to."""

    name, batch = "gate", 3

    def __init__(self) -> None:
        self.error: Exception | None = Unreachable("nobody is there")
        self.got: list[dict[str, Any]] = []

    def deliver(self, verdicts: Sequence[str]) -> None:
        """Take verdicts, or fail."""
        if self.error is not None:
            raise self.error
        self.got += map(json.loads, verdicts)

    def close(self) -> None:
        """Do nothing."""


@contextmanager
def outlet(state: Path, *sinks: Sink, most_bytes: int = 1 << 20) -> Iterator[Outlet]:
    with Spool(state, most_bytes) as spool:
        yield Outlet(spool, sinks)
        for sink in sinks:
            sink.close()


@contextmanager
def serving(root: Path, state: Path, *sinks: Sink, keys: str = "", most_bytes: int = 1 << 20) -> Iterator[Server]:
    """A service with sinks, until it has stopped."""
    with outlet(state, *sinks, most_bytes=most_bytes) as opened:
        server = Server(root, keys=keys, outlet=opened)
        try:
            yield server
        finally:
            server.stop()


def test_every_route_that_judges_sends_its_verdict_and_no_secrets(root: Path, tmp_path: Path) -> None:
    out, image = tmp_path / "out", odd()
    with serving(root, tmp_path / "state", JsonLines(out), keys=f"{KEY} * read") as server:
        server.http.headers["X-Api-Key"] = KEY
        encoded = base64.b64encode(image).decode()
        answers = [
            server.http.post("/v1/galleries/calibrated/query?name=a.png", content=image),
            server.http.post("/v1/galleries/calibrated/score-map?name=b.png", content=image),
            server.http.post("/v1/models/calibrated:predict", json={"instances": [{"b64": encoded}]}),
            server.http.post(
                "/v2/models/calibrated/infer",
                json={"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [encoded]}]},
            ),
            server.http.post("/v1/galleries/plain/query?maps=never&name=c.png", content=image),
        ]
        assert [answer.status_code for answer in answers] == [200] * 5
        assert server.http.post("/v1/galleries/plain/query", content=b"no image").status_code == 422
        eventually(lambda: out.read_text().count("\n") == 5)
    verdicts = [json.loads(line) for line in out.read_text().splitlines()]
    assert [list(verdict) for verdict in verdicts] == [VERDICT] * 5
    assert [verdict["image"] for verdict in verdicts] == ["a.png", "b.png", None, None, "c.png"]
    assert [verdict["gallery"] for verdict in verdicts] == ["calibrated"] * 4 + ["plain"]
    assert len({verdict["id"] for verdict in verdicts}) == 5
    told = answers[0].json()["results"][0]
    for name in ("score", "scores", "threshold", "anomalous", "p_value", "neighbours", "evidence", "regions"):
        assert verdicts[0][name] == told[name], name
    assert repr(verdicts[1]["score"]) == answers[1].headers["X-Score"]
    assert all(verdict["arrival"] <= verdict["judged"] for verdict in verdicts)
    assert KEY not in out.read_text()
    assert encoded[:40] not in out.read_text()


def test_an_image_that_belongs_to_no_gallery_has_a_verdict_that_says_so(root: Path, tmp_path: Path) -> None:
    gate = Gate()
    gate.error = None
    with serving(root, tmp_path / "state", gate) as server:
        answer = server.http.post("/v1/query?name=a.png", content=odd())
        (told,) = answer.json()["results"]
        eventually(lambda: gate.got)
    (verdict,) = gate.got
    assert verdict["image"] == "a.png"
    assert told["result"] is None
    assert (verdict["gallery"], verdict["error"]) == (None, "it belongs to none of the galleries")


def test_all_receivers_get_all_verdicts_in_order(root: Path, tmp_path: Path) -> None:
    out, refused = tmp_path / "out", tmp_path / "refused"
    with broker(tmp_path) as running, Subscriber(running.port) as subscriber, receiver() as hooked:
        hook = Webhook(f"http://127.0.0.1:{hooked.server_port}/in", KEY.encode(), refused)
        sinks = (JsonLines(out), hook, Mqtt(running.url(), None, refused))
        with serving(root, tmp_path / "state", *sinks) as server:
            for number in range(5):
                server.query("plain", png(number), name=f"{number}.png")
            eventually(lambda: len(subscriber.got) == len(hooked.got) == 5)
            for sink in ("jsonl", "webhook", "mqtt"):
                eventually(
                    lambda sink=sink: server.metric(f'spade_index_verdicts_delivered_total{{sink="{sink}"}}') == 5
                )
                assert server.metric(f'spade_index_sink_reachable{{sink="{sink}"}}') == 1
            assert server.metric("spade_index_verdicts") == server.metric("spade_index_verdicts_bytes") == 0
    posted = [json.loads(body) for _, _, body in hooked.got]
    for verdicts in (posted, subscriber.got, [json.loads(line) for line in out.read_text().splitlines()]):
        assert [verdict["image"] for verdict in verdicts] == [f"{number}.png" for number in range(5)]
    assert [verdict["id"] for verdict in posted] == [verdict["id"] for verdict in subscriber.got]
    assert all("X-Signature" in headers for _, headers, _ in hooked.got)


def test_a_receiver_that_is_away_gets_the_verdicts_later_also_after_a_restart(root: Path, tmp_path: Path) -> None:
    gate, other = Gate(), tmp_path / "out"
    with serving(root, tmp_path / "state", gate, JsonLines(other)) as server:
        for number in range(4):
            server.query("plain", png(number), name=f"{number}.png")
        eventually(lambda: other.read_text().count("\n") == 4)
        assert server.metric("spade_index_verdicts") == 4
        eventually(lambda: server.metric('spade_index_sink_reachable{sink="gate"}') == 0)
        assert server.http.get("/v2/health/ready").status_code == 200
    with serving(root, tmp_path / "state", gate, JsonLines(other)) as server:
        gate.error = None
        server.query("plain", png(4), name="4.png")
        eventually(lambda: len(gate.got) == 5)
        eventually(lambda: server.metric("spade_index_verdicts") == 0)
    assert [verdict["image"] for verdict in gate.got] == [f"{number}.png" for number in range(5)]
    assert other.read_text().count("\n") == 5


def test_limit_spool_bytes(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    with caplog.at_level(logging.WARNING), serving(root, tmp_path / "state", gate, most_bytes=5000) as server:
        for number in range(12):
            assert server.query("plain", png(number), name=f"{number}.png")["score"] > 0
        assert 0 < server.metric("spade_index_verdicts_bytes") <= 5000
        waiting = int(server.metric("spade_index_verdicts"))
        assert 0 < waiting < 12
        assert server.metric('spade_index_verdicts_dropped_total{reason="full"}') == 12 - waiting
        gate.error = None
        eventually(lambda: len(gate.got) == waiting)
    assert [verdict["image"] for verdict in gate.got] == [f"{number}.png" for number in range(12 - waiting, 12)]
    assert caplog.text.count("the spool is full") == 1


def test_a_spool_that_cannot_be_written_fails_no_query(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*arguments: object) -> int:
        raise SpoolError("verdicts.sqlite: the disk is full")

    gate = Gate()
    gate.error = None
    with serving(root, tmp_path / "state", gate) as server:
        with monkeypatch.context() as patch:
            patch.setattr(Spool, "add", fails)
            server.query("plain", png(1))
            server.query("plain", png(2))
        assert server.metric('spade_index_verdicts_dropped_total{reason="disk"}') == 2
        server.query("plain", png(3), name="3.png")
        eventually(lambda: [verdict["image"] for verdict in gate.got] == ["3.png"])
    assert caplog.text.count("the disk is full") == 1


def test_the_thread_survives_what_nobody_foresaw_and_readiness_covers_it(root: Path, tmp_path: Path) -> None:
    gate = Gate()
    gate.error = RuntimeError("unforeseen")
    with serving(root, tmp_path / "state", gate) as server:
        server.query("plain", png(1))
        eventually(lambda: server.metric('spade_index_thread_failures_total{thread="verdicts"}') > 0)
        gate.error = None
        eventually(lambda: len(gate.got) == 1)
        assert server.metric('spade_index_thread_alive{thread="verdicts"}') == 1
        assert server.http.get("/v2/health/ready").status_code == 200
        server.service.verdicts.stop()
        assert server.http.get("/v2/health/ready").status_code == 503
        assert server.metric('spade_index_thread_alive{thread="verdicts"}') == 0


def test_the_command_keeps_verdicts_through_a_kill(tmp_path: Path) -> None:
    out, state = tmp_path / "out", tmp_path / "state"
    hook = f"http://127.0.0.1:{free_port()}/"
    run("build", write_normal(tmp_path / "images", 4), tmp_path / "root" / "tiles", *BACKBONE, "--no-tune")
    with Process(tmp_path / "root", "--verdicts", str(out), "--webhook", hook, "--state", str(state)) as process:
        answer = process.http.post("/v1/galleries/tiles/query?name=a.png", content=png(1))
        assert answer.status_code == 200
        process.kill()
    with Spool(state) as spool:
        kept = [json.loads(record) for _, record in spool.undelivered("webhook", 10)]
    assert [record["image"] for record in kept] == ["a.png"]
