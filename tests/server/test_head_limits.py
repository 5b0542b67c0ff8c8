"""Limits of request heads: time and size."""

import time
from contextlib import suppress

import pytest

from helpers.http_answers import problem
from helpers.serving import Server
from helpers.tiny import png
from helpers.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("decoding_here")
QUERY = "/v1/galleries/plain/query"


@pytest.mark.parametrize("head", [b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n"])
def test_an_incomplete_head_times_out(serve, head: bytes) -> None:
    server = serve(head_seconds=0.5)
    with server.connect() as connection:
        connection.send(head)
        assert connection.is_closed()


def test_a_dripping_head_times_out(serve) -> None:
    server = serve(head_seconds=0.5)
    with server.connect() as connection:
        began = time.monotonic()
        connection.send(b"GET / HTTP/1.1\r\n")
        with suppress(ConnectionError):
            while time.monotonic() < began + PATIENCE:
                connection.send(b"X-A: b\r\n")
                time.sleep(0.05)
        assert time.monotonic() < began + PATIENCE


def test_the_head_of_a_second_request_times_out(serve) -> None:
    server = serve(head_seconds=1)
    with server.connect() as connection:
        assert connection.request("GET", "/v1").status_code == 200
        connection.send(b"GET / HTTP/1.1\r\nHost:")
        assert connection.is_closed()


def test_the_time_limit_of_the_head_does_not_apply_to_the_rest(serve) -> None:
    server, data = serve(head_seconds=1), png(3)
    with server.watch.held(), server.connect() as connection:
        connection.send(connection.head("POST", QUERY, Content_Length=str(len(data))) + data[:1000])
        time.sleep(1.1)
        connection.send(data[1000:])
        server.watch.wait_until_entered()
        time.sleep(1.1)
        server.watch.release()
        assert connection.answer().status_code == 200


@pytest.mark.parametrize("size", [20_000, 1_000_000])
def test_an_oversized_head_is_refused(shared_server: Server, size: int) -> None:
    with shared_server.connect() as connection:
        connection.send(b"GET /v1 HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * 15_000)
        with suppress(ConnectionError):  # a client that keeps sending may miss the answer
            for _ in range(size // 1000):
                connection.send(b"a" * 1000)
            problem(connection.answer(), 400)
        assert connection.is_closed()
    assert shared_server.http.get("/v1").status_code == 200
