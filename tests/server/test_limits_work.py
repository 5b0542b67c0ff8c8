"""Each limit of waiting, of answers and of what is kept, as docs/serve.md names it, from both sides."""

import io
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from spade_index.server import engine, limits, v1, v2, v2_models
from spade_index.server.problems import InvalidFields
from spade_index.server.results import Result

from helpers.adding import locked
from helpers.http_answers import problem
from helpers.limit_table import status
from helpers.serving import Server
from helpers.tiny import png, random_image
from helpers.uploads import encoded, odd
from helpers.waiting import PATIENCE, eventually

pytestmark = pytest.mark.usefixtures("decoding_here")
QUERY = "/v1/galleries/plain/query"
REMOVE = "/v1/galleries/plain/remove"
IDS = {"ids": ["003.png"]}


class Counted:
    """Counts how many calls of a function run at a time; each waits until `most` do, and a moment for one more."""

    def __init__(self, function: Callable[..., Any], most: int) -> None:
        self.now = self.most = 0
        self._function = function
        self._awaited = most
        self._changed = threading.Condition()

    def __call__(self, *arguments: Any) -> Any:
        with self._changed:
            self.now += 1
            self.most = max(self.most, self.now)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.most >= self._awaited, PATIENCE)
        time.sleep(0.05)
        try:
            return self._function(*arguments)
        finally:
            with self._changed:
                self.now -= 1


def all_at_once(ask: Callable[[int], Any], count: int) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(ask, range(count)))


def test_limit_decoders(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(decoders=2)
    link = server.query("plain", png(3))["score_map"]["overlay"]
    drawn = Counted(Result.overlay, 2)
    monkeypatch.setattr(Result, "overlay", lambda *arguments: drawn(*arguments))
    assert all_at_once(lambda _: server.http.get(link).status_code, 8) == [200] * 8
    assert drawn.most == 2


def test_limit_parsers(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    parsed = Counted(v2.parse_request, limits.PARSERS)
    monkeypatch.setattr(v2, "parse_request", parsed)
    answers = all_at_once(lambda _: server.http.post("/v2/models/plain/infer", content=b"{}").status_code, 8)
    assert answers == [400] * 8
    assert parsed.most == limits.PARSERS


def test_limit_queue_images(serve: Callable[..., Server]) -> None:
    server = serve(queue_images=3, request_images=3)
    server.query("plain", png(3))
    with server.watch.held(), ThreadPoolExecutor(3) as pool:
        admitted = [pool.submit(server.http.post, QUERY, content=png(3)) for _ in range(3)]
        eventually(lambda: server.metric("spade_index_queue_images") == 3)
        answer = server.http.post(QUERY, content=png(3))
        problem(answer, status("queue_images"))
        assert int(answer.headers["retry-after"]) >= 1
        server.watch.release()
        assert [one.result().status_code for one in admitted] == [200] * 3


def test_limit_request_seconds(serve: Callable[..., Server]) -> None:
    server = serve(request_seconds=60, batch_images=1)
    server.query("plain", png(3))
    for seconds, code in ((20, 200), (60, status("request_seconds"))):
        with server.watch.held(), ThreadPoolExecutor(2) as pool:
            pool.submit(server.http.post, QUERY, content=png(3))
            server.watch.wait_until_entered()
            second = pool.submit(server.http.post, QUERY, content=png(4))
            server.wait_until_waiting(1)
            server.age_waiting(seconds)
            server.watch.release()
            assert second.result().status_code == code


def test_limit_change_seconds(serve: Callable[..., Server], root: Path) -> None:
    patient, hasty = serve(change_seconds=PATIENCE), serve(change_seconds=0.2)
    with locked(root, 0.4):
        assert patient.http.post(REMOVE, json=IDS).status_code == 200
    with locked(root):
        answer = hasty.http.post("/v1/galleries/plain/restore", json=IDS)
        problem(answer, status("change_seconds"))
        assert int(answer.headers["retry-after"]) >= 1


def test_limit_changes_waiting(serve: Callable[..., Server], root: Path) -> None:
    server = serve(changes_waiting=2, change_seconds=PATIENCE)
    with ThreadPoolExecutor(2) as pool:
        with locked(root):
            waiting = [pool.submit(server.http.post, REMOVE, json={"ids": [f"00{n}.png"]}) for n in range(2)]
            eventually(lambda: server.service.changing._value == 0)
            answer = server.http.post(REMOVE, json=IDS)
            problem(answer, status("changes_waiting"))
            assert int(answer.headers["retry-after"]) >= 1
        assert [one.result().status_code for one in waiting] == [200, 200]
    assert server.http.post(REMOVE, json=IDS).status_code == 200


def test_changes_that_wait_keep_no_reader_waiting(serve: Callable[..., Server], root: Path) -> None:
    """They took all the threads that other answers are made in."""
    server = serve(change_seconds=PATIENCE)
    server.query("plain", png(3))
    with ThreadPoolExecutor(60) as pool:
        with locked(root):
            changes = [pool.submit(server.http.post, REMOVE, json=IDS) for _ in range(60)]
            refused = len(changes) - server.settings.changes_waiting
            eventually(lambda: sum(change.done() for change in changes) == refused)
            assert server.query("plain", png(4))["neighbours"]
            assert server.http.get("/v1/galleries").status_code == 200
            assert server.service.changing._value == 0  # they still wait
        statuses = [change.result().status_code for change in changes]
        assert statuses.count(503) == refused
        assert 200 in statuses


def test_limit_audits(serve: Callable[..., Server]) -> None:
    server = serve()
    path = "/v1/galleries/calibrated/audit"
    assert server.http.get(path).status_code == 200
    assert server.service.auditing._value == limits.AUDITS == 1
    with server.service.auditing:
        answer = server.http.get(path)
        problem(answer, status("audits"))
        assert int(answer.headers["retry-after"]) >= 1
    assert server.http.get(path).status_code == 200


def told(shared_server: Server, path: str, name: str, limit: str) -> None:
    most = getattr(limits, limit.upper())
    assert shared_server.http.get(f"/v1/galleries/{path}", params={name: most}).status_code == 200
    problem(shared_server.http.get(f"/v1/galleries/{path}", params={name: most + 1}), status(limit), name)


def test_limit_audit_images(shared_server: Server) -> None:
    told(shared_server, "calibrated/audit", "count", "audit_images")


def test_limit_page_images(shared_server: Server) -> None:
    told(shared_server, "plain/images", "limit", "page_images")


def test_limit_page_snapshots(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for action in ("remove", "restore"):
        server.http.post(f"/v1/galleries/plain/{action}", json=IDS).raise_for_status()

    def snapshots() -> tuple[list[str], list[str]]:
        native = [str(row["snapshot"]) for row in server.http.get("/v1/galleries/plain").json()["snapshots"]]
        return native, server.http.get("/v2/models/plain").json()["versions"]

    whole = snapshots()[0]
    assert len(whole) > 4
    for most in (4, 3):
        for module in (v1, v2_models):
            monkeypatch.setattr(module, "PAGE_SNAPSHOTS", most)
        assert snapshots() == (whole[-most:], whole[-most:])


def test_limit_overlay_edge(shared_server: Server) -> None:
    for edge in (limits.OVERLAY_EDGE, limits.OVERLAY_EDGE + 100):
        result = shared_server.query("plain", encoded(random_image(3, (edge, 30))))
        drawn = Image.open(io.BytesIO(shared_server.http.get(result["score_map"]["overlay"]).content))
        assert drawn.width == limits.OVERLAY_EDGE


def many_errors(count: int, length: int) -> InvalidFields:
    return InvalidFields([{"loc": ("body", "ids", number), "msg": "m" * length} for number in range(count)])


def test_limit_errors(shared_server: Server) -> None:
    for count in (limits.ERRORS, limits.ERRORS + 1):
        assert len(many_errors(count, 5).fields) == limits.ERRORS
    answer = shared_server.http.post(REMOVE, json={f"x{number}": number for number in range(limits.ERRORS + 5)})
    assert len(problem(answer, 422)["errors"]) == limits.ERRORS


def test_limit_detail_length() -> None:
    for length in (limits.DETAIL_LENGTH, limits.DETAIL_LENGTH + 1):
        assert len(many_errors(1, length).fields[0]["detail"]) == limits.DETAIL_LENGTH


def kept(server: Server, seed: int = 3) -> str:
    return server.query("plain", png(seed))["score_map"]["overlay"]


def test_limit_results_bytes(serve: Callable[..., Server]) -> None:
    server = serve()
    kept(server)
    size = int(server.metric("spade_index_results_bytes"))
    roomy, narrow = serve(results_bytes=3 * size), serve(results_bytes=size + size // 2)
    assert [roomy.http.get(link).status_code for link in [kept(roomy), kept(roomy)]] == [200, 200]
    first, second = kept(narrow), kept(narrow)
    problem(narrow.http.get(first), status("results_bytes"))
    assert narrow.http.get(second).status_code == 200


def test_limit_results_seconds(serve: Callable[..., Server]) -> None:
    server = serve(results_seconds=60)
    link = kept(server)
    results = server.service.results._kept
    for seconds, code in ((20, 200), (40, status("results_seconds"))):
        results.update({id: replace(result, made=result.made - seconds) for id, result in results.items()})
        assert server.http.get(link).status_code == code


def opened(server: Server) -> float:
    return server.metric("spade_index_open_galleries")


def test_limit_memory(serve: Callable[..., Server]) -> None:
    size = 64 << 20
    for memory, most in ((3 * size, 2), (size + size // 2, 1)):
        server = serve(memory=memory)
        for gallery in ("plain", "calibrated"):
            server.query(gallery, odd())
        eventually(lambda server=server, most=most: opened(server) == most)


def test_limit_idle_seconds(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "IDLE_SECONDS", 0.05)
    kept_open, closed = serve(idle_seconds=60), serve(idle_seconds=0.1)
    for server in (kept_open, closed):
        server.query("plain", png(3))
    eventually(lambda: opened(closed) == 0)
    assert opened(kept_open) == 1
