"""The Python client before another program than the service, and with arguments of another kind."""

import gzip
import io
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spade_index.client import Client, received
from spade_index.client.answers import ResultInfo
from spade_index.errors import InputError, ServiceError, Unavailable

from helpers.tiny import png

NEXT = b'{"images": [], "next": 0}'


class Other:
    """Another program, which gives one answer to everything."""

    client: Client
    status = 200
    headers: dict[str, str] = {}  # noqa: RUF012
    body = b""


@pytest.fixture
def other() -> Iterator[Other]:
    """Another program that the client `other.client` asks."""
    told = Other()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(told.status)
            for name, value in told.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(told.body)

        do_POST = do_DELETE = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    with Client(f"http://someone:secret@127.0.0.1:{server.server_port}", tries=1) as told.client:
        yield told
    server.shutdown()
    server.server_close()
    thread.join()


CALLS: dict[str, Callable[[Client], object]] = {
    "service": lambda client: client.service(),
    "galleries": lambda client: client.galleries(),
    "gallery": lambda client: client.gallery("x"),
    "images": lambda client: [*client.images("x")],
    "query": lambda client: client.query("x", png(1)),
    "add": lambda client: client.add("x", {"a.png": png(1)}),
    "feedback": lambda client: client.feedback("x"),
    "jobs": lambda client: client.jobs(),
    "wait": lambda client: client.wait("x"),
    "remove": lambda client: client.remove("x", ["a.png"]),
    "match": lambda client: client.match("x", 1, 1),
    "audit": lambda client: client.audit("x"),
    "thumbnail": lambda client: client.thumbnail("x", "a.png"),
    "picture": lambda client: client.picture("x", "heat"),
    "score map": lambda client: client.score_map("x"),
}
BODIES = [
    *(b"", b"null", b"[]", b"{}", b"1", b'"x"', b"\xff", b"[" * 100_000, b"9" * 5000, b"NaN", b"[1e999]", png(1)[:99]),
    b'{"galleries": 5, "images": 5, "jobs": 5, "feedback": 5, "results": 5, "found": 1}',
    b'{"galleries": [null], "images": [null], "jobs": [null], "feedback": [null], "results": [null], "found": 1}',
    b'{"gallery": "x", "snapshot": 1, "results": []}',
    NEXT,
]


def refusal(other: Other, call: Callable[[Client], object]) -> str:
    with pytest.raises(ServiceError) as caught:
        call(other.client)
    message = str(caught.value)
    assert "\n" not in message
    assert "secret" not in message
    return message


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_answer_of_another_kind_is_an_error_of_the_service(other: Other, call: Callable[[Client], object]) -> None:
    for other.body in BODIES:
        refusal(other, call)


def array(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        written.writestr("a.npy", array(np.zeros((2, 2), np.float32)))
    return file.getvalue()


def test_a_score_map_is_float32_of_two_dimensions(other: Other) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    other.body = array(values)
    found = other.client.score_map("x")
    np.testing.assert_array_equal(found, values)
    assert (found.dtype, found.flags.writeable) == (np.float32, True)
    large = array(values).replace(b"(2, 3), }", b"(99999999, 99999999), }")
    for other.body in (array(values)[:-1], array(values) + b"x", large, array(values[0]), array(values > 1), archive()):
        assert "not a score map" in refusal(other, CALLS["score map"])


def test_pages_that_do_not_advance_end(other: Other) -> None:
    other.body = b'{"images": [], "next": -1}'
    assert "the next page" in refusal(other, CALLS["images"])


ERRORS = [
    b"[" * 100_000,
    b'{"detail": null}',
    b'{"detail": "x", "errors": 5}',
    b'{"detail": "x", "errors": [5]}',
    b'{"detail": "x", "errors": [{"field": [], "detail": {}}]}',
    b'{"detail": "one\\ntwo", "errors": [{"field": "f", "detail": "three\\nfour"}]}',
    b'{"detail": "%s"}' % (b"x" * 100_000),
]


@pytest.mark.parametrize(
    "later", ["", "soon", "9" * 400, "-1", "Mon, 01 Jan 0001 00:00:00 +2300", "Mon, 99 Foo 99999 99:99:99 GMT"]
)
def test_errors_of_other_programs_are_one_line(other: Other, later: str) -> None:
    other.status, other.headers = 503, {"Retry-After": later, "X-Request-Id": "i" * 5000}
    for other.body in ERRORS:
        assert len(refusal(other, CALLS["gallery"])) < 3000


def test_an_answer_has_a_limited_length(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(received, "MOST_BYTES", 1000)
    for other.status in (200, 404):
        other.body = b" " * 1001
        assert "over the limit of 1,000 bytes" in refusal(other, CALLS["gallery"])
        other.body = gzip.compress(bytes(10_000))
        other.headers = {"Content-Encoding": "gzip"}
        assert "compressed" in refusal(other, CALLS["gallery"])
        other.headers = {}


def test_an_answer_that_is_cut_off_is_none(other: Other) -> None:
    other.headers, other.body = {"Content-Length": "100"}, b"{}"
    with pytest.raises(Unavailable):
        other.client.galleries()


def test_a_result_without_neighbours_has_no_thumbnail_of_one(other: Other) -> None:
    told: dict[str, Any] = dict.fromkeys(ResultInfo.__dataclass_fields__)
    told |= {"width": 1, "height": 1, "score": 1.0, "kind": "pooled", "scores": {}, "snapshot": 1, "neighbours": ()}
    other.body = json.dumps({"gallery": "x", "snapshot": 1, "results": [told]}).encode()
    (result,) = other.client.query("x", png(1))
    with pytest.raises(InputError, match="no neighbours"):
        result.thumbnail()


URL = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    "options",
    [
        *({"timeout": value} for value in (0, -1, float("nan"), float("inf"), 1e10, "5", None, True)),
        *({"tries": value} for value in (0, -1, 1.0, "5", None, True)),
        *({"longest": value} for value in (0, -1, float("nan"), float("inf"), 1e10, "5", None, True)),
        *({"api_key": value} for value in ("a secret", "secret\n", "secretä", b"secret", 5)),
        *({"url": value} for value in (None, 5, b"http://x", "http://", "http:///x", "http://s:secret@h:port")),
        *({"url": f"http://{rest}"} for rest in ("x?secret", "x/#secret", "s:secret@h/?x", "x\n", "x" * 70_000)),
    ],
    ids=str,
)
def test_a_client_of_other_arguments_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        Client(**{"url": URL} | options)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value).replace("x?secret", "").replace("x/#secret", "")


@pytest.mark.parametrize(
    "call",
    [
        *(lambda client, name=name: client.gallery(name) for name in (None, 5, b"x", "", "\udcff")),
        *(lambda client, job=job: client.job(job) for job in (None, 5, "")),
        *(lambda client, ids=ids: client.remove("x", ids) for ids in ("a.png", b"a", None, 5, [5], [None])),
        lambda client: client.restore("x", "a.png"),
        lambda client: client.restore("x", ["\udcff"]),
        *(lambda client, box=box: client.say_missed("x", __file__, box=box) for box in ("1,2,3,4", 5, (1, 2, 3))),
        lambda client: client.say_missed("x", __file__, box=(1, 2, 3, float("nan"))),
        *(lambda client, kind=kind: client.say_defect("x", __file__, kind) for kind in (None, 5, {"1,2": "dent"})),
        lambda client: client.query("x", png(1), maps=[]),
        lambda client: client.query("x", png(1), threshold={}),
        lambda client: client.query("x", None),
        lambda client: client.query("x", {5: png(1)}),
        lambda client: client.query("x", {"\udcff": png(1)}),
        lambda client: client.query("x", "a\0b"),
        lambda client: client.query("x", np.zeros((0, 0), np.uint8)),
        lambda client: client.wait("x", timeout=float("nan")),
        lambda client: client.wait("x", timeout="5"),
    ],
)
def test_a_call_of_other_arguments_is_refused_before_anything_is_sent(call: Callable[[Client], object]) -> None:
    with Client(URL) as client, pytest.raises(InputError) as caught:
        call(client)
    assert "\n" not in str(caught.value)


def test_closed_images_are_not_sent(tmp_path: Path) -> None:
    image = Image.new("L", (3, 3))
    image.close()
    with (tmp_path / "x").open("w+b") as file:
        pass
    with Client(URL) as client:
        for closed in (image, file):
            with pytest.raises(InputError, match="the image: "):
                client.query("x", closed)


def test_numbers_of_numpy_are_sent_as_numbers(client: Client) -> None:
    assert client.query("plain", png(1), threshold=np.float32(1e9))[0].anomalous is False


def test_no_time_to_wait_is_none(other: Other) -> None:
    other.body = (
        b'{"id": "x", "gallery": "x", "action": "add", "replace": false, "prefix": "", "state": "running", "images": 1,'
        b'"done": 0, "report": null, "notices": [], "snapshot": null, "error": null, "created": "", "started": null,'
        b'"ended": null}'
    )
    with pytest.raises(Unavailable, match="is running after 0 seconds"):
        other.client.wait("x", timeout=0)
