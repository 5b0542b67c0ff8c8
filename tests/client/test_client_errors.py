"""The Python client: errors, retries and API keys."""

import pickle
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from PIL import Image

from spade_index.client import Client
from spade_index.errors import InputError, ServiceError, SpadeIndexError, Unavailable

from helpers.serving import Server
from helpers.tiny import png
from helpers.waiting import eventually

KEY = "a-key-that-may-read"


def test_errors_carry_the_problem_details(client: Client) -> None:
    with pytest.raises(ServiceError) as caught:
        client.query("plain", [png(1), b"no image"])
    error = caught.value
    assert (error.status, list(error.fields), error.retry_after) == (422, ["images[1]"], None)
    assert error.detail == error.fields["images[1]"] == "images[1]: cannot be decoded (not an image)"
    assert error.request_id is not None
    assert error.request_id in str(error)
    assert "/v1/galleries/plain/query" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.status, again.fields) == (str(error), 422, error.fields)


@pytest.mark.parametrize("name", ["nope", "..", ".", "a/b", "../plain", "a?b#c", "ü", "%2e%2e"])
def test_an_unknown_gallery_is_not_found_whatever_its_name(client: Client, name: str) -> None:
    with pytest.raises(ServiceError) as caught:
        client.gallery(name)
    assert caught.value.status == 404


@pytest.mark.parametrize(
    "call", [lambda c: c.job("x"), lambda c: c.match("x", 1, 1), lambda c: c.thumbnail("plain", "x")]
)
def test_unknown_jobs_results_and_images_are_not_found(client: Client, call: Callable[[Client], object]) -> None:
    with pytest.raises(ServiceError) as caught:
        call(client)
    assert caught.value.status == 404


@pytest.mark.parametrize(
    ("image", "told"),
    [
        ([], "at least one"),
        ("/nowhere/x.png", "/nowhere/x.png: cannot be read"),
        (np.zeros((4, 4)), r"uint8 \[H, W\]"),
        ([png(1), np.zeros((4, 4, 7), np.uint8)], r"images\[1\]: .* \(4, 4, 7\)"),
        (Image.new("F", (4, 4)), "convert it to RGB"),
        ([3], r"images\[0\]: not an image"),
    ],
)
def test_an_invalid_image_is_not_sent(client: Client, image: object, told: str) -> None:
    with pytest.raises(InputError, match=told):
        client.query("plain", image)  # type: ignore[arg-type]


def test_images_to_add_need_a_name(client: Client) -> None:
    with pytest.raises(InputError, match=r"images\[1\] has no name"):
        client.add("plain", [__file__, png(1)])


def test_an_oversized_body_is_refused(serve: Callable[..., Server]) -> None:
    with Client(serve(body_bytes=100_000).url) as client, pytest.raises(ServiceError) as caught:
        client.query("plain", bytes(20_000_000))
    assert caught.value.status == 413


def test_the_api_key_is_sent(serve: Callable[..., Server]) -> None:
    server = serve(keys=f"{KEY} plain read")
    with Client(server.url) as client:
        assert client.ready()
        with pytest.raises(ServiceError) as caught:
            client.galleries()
        assert caught.value.status == 401
    with Client(server.url, api_key=KEY) as client:
        assert [one.name for one in client.galleries()] == ["plain"]
        with pytest.raises(ServiceError) as caught:
            client.remove("plain", ["000.png"])
        assert caught.value.status == 403


def test_a_refusal_of_a_busy_service_is_retried(serve: Callable[..., Server]) -> None:
    server = serve(queue_images=1, request_images=1)
    scores = []

    def ask() -> None:
        with Client(server.url) as client:
            scores.append(client.query("plain", png(5))[0].score)

    with server.watch.held():
        asking = [threading.Thread(target=ask) for _ in range(2)]
        asking[0].start()
        server.watch.wait_until_entered()
        with Client(server.url, tries=1) as client, pytest.raises(ServiceError) as caught:
            client.query("plain", png(5))
        assert caught.value.status == 503
        assert caught.value.retry_after is not None
        assert caught.value.retry_after >= 1
        asking[1].start()
        eventually(lambda: server.metric('spade_index_refused_total{reason="queue"}') >= 2)
    for thread in asking:
        thread.join()
    assert scores[0] == scores[1]


def test_an_unreachable_or_silent_service_is_unavailable(server: Server) -> None:
    port = server.port
    silence = pytest.raises(Unavailable, match="no answer to POST v1/galleries/plain/query in time")
    with server.watch.held(), Client(server.url, timeout=0.2) as client, silence:
        client.query("plain", png(1))
    server.stop()
    with Client(f"http://127.0.0.1:{port}") as client:
        assert not client.ready()
        with pytest.raises(Unavailable, match="cannot be reached"):
            client.galleries()
    for url in ("nonsense", "ftp://127.0.0.1", "http://127.0.0.1:port"):
        with pytest.raises(InputError, match="not the address"):
            Client(url)


@pytest.mark.parametrize(
    ("status", "told"), [(502, "Bad Gateway"), (301, "the service is at https://elsewhere/"), (200, "is not JSON")]
)
def test_an_error_of_a_proxy_is_reported_in_one_line(status: int, told: str) -> None:
    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Location", "https://elsewhere/")
            self.end_headers()
            self.wfile.write(b"<html>\n<p>sorry")

        def log_message(self, *arguments: object) -> None:
            pass

    proxy = HTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        with Client(f"http://127.0.0.1:{proxy.server_port}") as client, pytest.raises(SpadeIndexError) as caught:
            client.galleries()
    finally:
        proxy.shutdown()
        proxy.server_close()
    assert isinstance(caught.value, ServiceError)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
