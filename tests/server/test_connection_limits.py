"""Limits of connections: their number, and clients that do not read."""

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest

from helpers.connection import Connection
from helpers.http_answers import problem
from helpers.serving import Server
from helpers.tiny import png
from helpers.waiting import PATIENCE, eventually

pytestmark = pytest.mark.usefixtures("decoding_here")
QUERY = "/v1/galleries/plain/query"
MANY = 400  # pipelined requests, whose answers fill the buffers of both ends


def silent(server: Server, stack: ExitStack, count: int) -> list[Connection]:
    connections = []
    for _ in range(count):
        connections.append(stack.enter_context(server.connect()))
        time.sleep(0.01)
    return connections


def test_beyond_the_limit_the_connection_that_was_idle_longest_is_closed(serve: Callable[..., Server]) -> None:
    server = serve(connections=8, head_seconds=60)
    with ExitStack() as stack:
        first, second, *_ = silent(server, stack, 8)
        assert first.request("GET", "/v1").status_code == 200  # from now on, the second is idle for longest
        with server.connect() as more:
            assert more.request("GET", "/v1").status_code == 200
            assert second.is_closed()
            assert first.request("GET", "/v1").status_code == 200
            assert server.metric('spade_index_refused_total{reason="connections"}') >= 1
            assert server.metric("spade_index_connections") <= 8


def test_silent_connections_keep_nobody_out(serve: Callable[..., Server]) -> None:
    server = serve(connections=8, head_seconds=60)
    with ExitStack() as stack:
        silent(server, stack, 50)
        for _ in range(5):
            with server.connect() as honest:
                assert honest.request("POST", QUERY, png(3), Content_Type="image/png").status_code == 200


def test_where_none_is_idle_a_connection_is_refused_with_retry_after(serve: Callable[..., Server]) -> None:
    server = serve(connections=3)
    server.query("plain", png(3))
    server.http.close()
    with server.watch.held(), ThreadPoolExecutor(3) as pool, ExitStack() as stack:
        asked = [
            pool.submit(stack.enter_context(server.connect()).request, "POST", QUERY, png(n), Content_Type="image/png")
            for n in range(3)
        ]
        eventually(lambda: server.service.engine._admitted == 3)
        with server.connect() as refused:
            answer = refused.answer()
            problem(answer, 503)
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.headers["connection"] == "close"
            assert refused.is_closed()
        server.watch.release()
        assert [answer.result().status_code for answer in asked] == [200, 200, 200]
    with server.connect() as again:
        assert again.request("GET", "/v1").status_code == 200


def unread(server: Server) -> socket.socket:
    """Ask for much and read nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", server.port))
    client.settimeout(0.2)
    request = f"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode()
    with suppress(TimeoutError):  # the service does not take more before it is read
        client.sendall(request * MANY)
    client.settimeout(10)
    return client


def is_closed(client: socket.socket) -> bool:
    try:
        while client.recv(1 << 20):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


def test_a_client_that_does_not_read_is_closed(serve: Callable[..., Server]) -> None:
    server = serve(write_seconds=0.5)
    client = unread(server)
    eventually(lambda: server.metric('spade_index_refused_total{reason="unread"}') == 1)
    assert is_closed(client)
    eventually(lambda: server.metric("spade_index_unsent_bytes") == 0)
    assert server.query("plain", png(3))["neighbours"]


def test_a_client_that_reads_too_slowly_is_closed(serve: Callable[..., Server]) -> None:
    server = serve(write_seconds=0.5, write_rate=1 << 20)
    client = unread(server)
    until = time.monotonic() + 20
    with suppress(ConnectionError):
        while client.recv(100) and time.monotonic() < until:
            time.sleep(0.02)
    assert server.metric('spade_index_refused_total{reason="unread"}') == 1
    assert time.monotonic() < until


def test_a_client_that_reads_after_a_while_gets_all(serve: Callable[..., Server]) -> None:
    server = serve(write_seconds=PATIENCE)
    client = unread(server)
    eventually(lambda: server.metric("spade_index_unsent_bytes") > 0)
    left = MANY * len(server.http.get("/openapi.json").content)
    while left > 0:
        data = client.recv(1 << 20)
        assert data
        left -= len(data)
    assert server.metric('spade_index_refused_total{reason="unread"}') == 0
    client.close()


def test_unread_answers_are_limited_all_together(serve: Callable[..., Server]) -> None:
    server = serve(write_seconds=60, unsent_bytes=1)
    clients = [unread(server) for _ in range(3)]
    eventually(lambda: server.metric('spade_index_refused_total{reason="unread"}') >= 3)
    assert all(map(is_closed, clients))
    assert server.metric("spade_index_unsent_bytes") == 0


def test_a_stop_does_not_wait_for_clients_that_do_not_read(serve: Callable[..., Server]) -> None:
    server = serve(write_seconds=2)
    clients = [unread(server) for _ in range(5)]
    eventually(lambda: server.metric("spade_index_unsent_bytes") > 0)
    server.stop()  # fails if it does not end
    for client in clients:
        client.close()
