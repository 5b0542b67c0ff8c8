"""Each limit of connections and heads in docs/serve.md, from both sides."""

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

import pytest

from spade_index.server import http_protocol
from spade_index.server.limits import CHUNK_BYTES, FREE_CHUNKS, HEAD_BYTES, REQUEST_ID_LENGTH

from helpers.connection import Connection
from helpers.http_answers import problem
from helpers.limit_table import status
from helpers.serving import Server
from helpers.tiny import png
from helpers.waiting import PATIENCE, eventually

pytestmark = pytest.mark.usefixtures("decoding_here")
QUERY = "/v1/galleries/plain/query"
REMOVE = "/v1/galleries/plain/remove"


def test_limit_connections(serve: Callable[..., Server]) -> None:
    server = serve(connections=3, head_seconds=60, body_seconds=60)
    server.http.close()
    with ExitStack() as stack:
        busy = [stack.enter_context(server.connect()) for _ in range(3)]
        for connection in busy:  # none is idle while its body comes
            connection.send(connection.head("POST", QUERY, Content_Length="1000") + b"x")
        eventually(lambda: len(server._uvicorn.server_state.tasks) == 3)
        with server.connect() as more:
            assert "too many connections" in problem(more.answer(), status("connections"))["detail"]
        busy[0].close()
        eventually(lambda: len(server._uvicorn.server_state.connections) == 2)
        with server.connect() as again:
            assert again.request("GET", "/v1").status_code == 200


def head_of(size: int) -> bytes:
    """Return the head of a request of so many bytes."""
    start, end = b"GET /v1 HTTP/1.1\r\nHost: localhost\r\nX-Long: ", b"\r\n\r\n"
    return start + b"a" * (size - len(start + end)) + end


@pytest.mark.parametrize("piece", [1 << 20, 5000], ids=["at once", "in pieces"])
def test_limit_head_bytes(shared_server: Server, piece: int) -> None:
    for size in (HEAD_BYTES + 1, 5 * HEAD_BYTES):
        with shared_server.connect() as connection, suppress(ConnectionError):
            for start in range(0, size, piece):
                connection.send(head_of(size)[start : start + piece])
                time.sleep(0.01)
            assert f"limit of {HEAD_BYTES:,}" in problem(connection.answer(), status("head_bytes"))["detail"]
            assert connection.is_closed()
    with shared_server.connect() as connection:
        for _ in range(2):
            connection.send(head_of(HEAD_BYTES))
            assert connection.answer().status_code == 200
        connection.send(head_of(300) + head_of(HEAD_BYTES + 1))  # pipelined
        assert connection.answer().status_code == 200
        problem(connection.answer(), status("head_bytes"))


def test_limit_head_seconds(serve: Callable[..., Server]) -> None:
    with serve(head_seconds=0.2).connect() as late, serve(head_seconds=PATIENCE).connect() as timely:
        late.send(b"GET /v1 HTTP/1.1\r\n")
        timely.send(b"GET /v1 HTTP/1.1\r\n")
        assert late.is_closed()
        timely.send(b"Host: localhost\r\n\r\n")
        assert timely.answer().status_code == 200


def test_limit_keep_seconds(serve: Callable[..., Server]) -> None:
    with serve(keep_seconds=PATIENCE).connect() as kept, serve(keep_seconds=0.2).connect() as closed:
        for connection in (kept, closed):
            assert connection.request("GET", "/v1").status_code == 200
        assert closed.is_closed()
        assert kept.request("GET", "/v1").status_code == 200


def unread(server: Server) -> socket.socket:
    """Ask for much and read nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", server.port))
    client.settimeout(0.2)
    with suppress(TimeoutError):  # the service does not take more before it is read
        client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 400)
    client.settimeout(20)
    return client


def closed_unread(server: Server) -> float:
    return server.metric('spade_index_refused_total{reason="unread"}')


def test_limit_write_seconds(serve: Callable[..., Server]) -> None:
    patient, hasty = serve(write_seconds=4), serve(write_seconds=0.5)
    with unread(patient) as client, unread(hasty):
        begun = time.monotonic()
        while time.monotonic() < begun + 4.5:  # reads a little, all the time: the system's buffers stay full
            assert client.recv(1 << 16)
            time.sleep(0.05)
        assert closed_unread(patient) == 0
        eventually(lambda: closed_unread(hasty) == 1)


def test_limit_write_rate(serve: Callable[..., Server]) -> None:
    for seconds, due, rate, slow in ((4, 4 << 10, 120 << 10, False), (0.5, 40 << 10, 10 << 10, True)):
        server = serve(write_seconds=seconds, write_rate=due)
        with unread(server) as client, suppress(ConnectionError):
            begun, read = time.monotonic(), 0
            while time.monotonic() < begun + 4.5 and closed_unread(server) == 0:
                read += len(client.recv(1 << 11))
                time.sleep(max(0.0, begun + read / rate - time.monotonic()))
        assert closed_unread(server) == slow


def test_limit_unsent_bytes(serve: Callable[..., Server]) -> None:
    roomy, narrow = serve(write_seconds=60), serve(write_seconds=60, unsent_bytes=1)
    with unread(roomy), unread(narrow):
        eventually(lambda: roomy.metric("spade_index_unsent_bytes") > 1)
        eventually(lambda: closed_unread(narrow) == 1)
        assert narrow.metric("spade_index_unsent_bytes") == 0
        assert closed_unread(roomy) == 0


def refused_and_sending(server: Server, size: int) -> bool:
    """Send a body that was refused by its head, and a request behind it; return whether that is answered."""
    with server.connect() as connection:
        connection.send(connection.head("POST", "/v1/nothing", Content_Length=str(size)))
        assert connection.answer().status_code == 404
        try:
            for start in range(0, size, 1 << 16):
                connection.send(bytes(min(1 << 16, size - start)))
            return connection.request("GET", "/v1").status_code == 200
        except (ConnectionError, AssertionError):
            return False


def test_limit_rest_bytes(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "REST_BYTES", 1 << 20)
    server = serve()
    assert refused_and_sending(server, (1 << 20) - 1000)
    assert not refused_and_sending(server, (1 << 20) + (1 << 19))
    assert refused_and_sending(server, 1000)


def in_chunks(connection: Connection, chunk: bytes, count: int) -> None:
    head = connection.head("POST", REMOVE, Transfer_Encoding="chunked", Content_Type="application/json")
    connection.send(head + (b"%x\r\n%s\r\n" % (len(chunk), chunk)) * count + b"0\r\n\r\n")


def test_limit_chunk_bytes(shared_server: Server) -> None:
    with shared_server.connect() as connection:
        in_chunks(connection, b" " * CHUNK_BYTES, 20 * FREE_CHUNKS)
        problem(connection.answer(), 422)  # not JSON
        in_chunks(connection, b" " * (CHUNK_BYTES - 1), 20 * FREE_CHUNKS)
        assert "chunks" in problem(connection.answer(), status("chunk_bytes"))["detail"]
        assert connection.is_closed()


def test_limit_free_chunks(shared_server: Server) -> None:
    with shared_server.connect() as connection:
        in_chunks(connection, b" ", FREE_CHUNKS)
        problem(connection.answer(), 422)
        in_chunks(connection, b" ", FREE_CHUNKS + 1)
        problem(connection.answer(), status("free_chunks"))


def test_chunks_are_limited_before_the_key(serve: Callable[..., Server]) -> None:
    server = serve(keys="a-key-0123456789-abc * read")
    with server.connect() as connection:
        connection.send(connection.head("POST", REMOVE, Transfer_Encoding="chunked"))
        assert connection.answer().status_code == 401
        with suppress(ConnectionError):
            connection.send(b"1\r\nx\r\n" * 100_000)
        assert connection.is_closed()


def test_limit_request_id_length(shared_server: Server) -> None:
    exact, over = "a" * REQUEST_ID_LENGTH, "a" * (REQUEST_ID_LENGTH + 1)
    assert shared_server.http.get("/v1", headers={"X-Request-Id": exact}).headers["X-Request-Id"] == exact
    assert shared_server.http.get("/v1", headers={"X-Request-Id": over}).headers["X-Request-Id"] not in (over, exact)
    assert shared_server.query("plain", png(3))["neighbours"]
