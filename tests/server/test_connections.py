"""Tests of HTTP itself: connections that are used again, methods, hosts, origins and headers."""

import pytest

from helpers.connection import Connection
from helpers.http_answers import problem
from helpers.serving import Server
from helpers.tiny import png
from helpers.uploads import parts

pytestmark = pytest.mark.usefixtures("decoding_here")
QUERY = "/v1/galleries/plain/query"
SECURITY = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def is_secure(answer) -> bool:
    policy = answer.headers["content-security-policy"]
    return (
        "default-src 'none'" in policy
        and "frame-ancestors" in policy
        and answer.headers["x-request-id"] != ""
        and all(answer.headers[name] == value for name, value in SECURITY.items())
        and "server" not in answer.headers
    )


def answers_again(connection: Connection) -> bool:
    return connection.request("GET", "/v1").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/galleries/nothing/query", b"x" * 200_000, 404),
        ("POST", "/v1/galleries/plain/query?maps=no", b"x" * 200_000, 422),
        ("POST", QUERY, b"x" * 200_000, 422),
        ("POST", QUERY, b"x" * 2_000_000, 413),
        ("POST", "/v1/nothing", b"x" * 2_000_000, 404),
        ("PUT", QUERY, b"x" * 200_000, 405),
        ("GET", "/v1/galleries", b"x" * 200_000, 200),
        ("POST", "/v1/galleries/plain/remove", b"x" * 200_000, 422),
    ],
)
def test_a_connection_is_reused_after_an_error(serve, method: str, path: str, body: bytes, status: int) -> None:
    server = serve(body_bytes=1_000_000)
    with server.connect() as connection:
        for _ in range(3):
            answer = connection.request(method, path, body, Content_Type="image/png")
            assert answer.status_code == status
            assert is_secure(answer)
        assert answers_again(connection)


def test_pipelined_requests_are_answered_in_order(shared_server: Server) -> None:
    data = png(3)
    with shared_server.connect() as connection:
        query = connection.head("POST", QUERY, Content_Length=str(len(data))) + data
        bad = connection.head("POST", QUERY, Content_Length="3") + b"bad"
        look = connection.head("GET", "/v1")
        connection.send(query + bad + look + query + look)
        assert [connection.answer().status_code for _ in range(5)] == [200, 422, 200, 200, 200]


def test_a_chunked_body_is_one_image(shared_server: Server) -> None:
    data = png(3)
    with shared_server.connect() as connection:
        connection.send(connection.head("POST", QUERY, Transfer_Encoding="chunked"))
        for start in range(0, len(data), 777):
            piece = data[start : start + 777]
            connection.send(b"%x;note=1\r\n" % len(piece) + piece + b"\r\n")
        connection.send(b"0\r\nTrailer: x\r\n\r\n")
        assert connection.answer().json()["results"][0]["neighbours"][0]["id"] == "003.png"
        assert answers_again(connection)


def test_expect_100_continue_is_answered(serve) -> None:
    server = serve(body_bytes=100_000)
    data = png(3)
    with server.connect() as connection:
        connection.send(connection.head("POST", QUERY, Content_Length=str(len(data)), Expect="100-continue"))
        assert connection.socket.recv(12) == b"HTTP/1.1 100"
        connection.send(data)
        while connection._line():
            pass
        assert connection.answer().status_code == 200
    with server.connect() as connection:
        connection.send(connection.head("POST", QUERY, Content_Length="100001", Expect="100-continue"))
        problem(connection.answer(), 413)


@pytest.mark.parametrize(
    "bytes_",
    [
        b"\r\n\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET /nothing HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1e3\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nA\xff\x00: b\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        bytes(range(256)) * 100,
    ],
)
def test_invalid_http_is_refused(shared_server: Server, bytes_: bytes, caplog) -> None:
    with shared_server.connect() as connection:
        connection.send(bytes_)
        answer = connection.socket.recv(1 << 16)
        assert answer[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 403", b"HTTP/1.1 404", b"HTTP/1.1 505", b"")
        if b" 400 " in answer[:20]:
            assert b"application/problem+json" in answer
            assert b"nosniff" in answer
    assert shared_server.http.get("/v1").status_code == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_garbage_after_a_request_closes_only_its_connection(shared_server: Server, caplog) -> None:
    with shared_server.connect() as connection:
        connection.send(connection.head("GET", "/v1") + b"\x00\x01garbage\r\n\r\n")
        assert connection.answer().status_code == 200
        assert connection.is_closed()
    data = png(3)
    with shared_server.watch.held(), shared_server.connect() as connection:
        connection.send(connection.head("POST", QUERY, Content_Length=str(len(data))) + data + b"\x00garbage\r\n\r\n")
        shared_server.watch.wait_until_entered()
    assert shared_server.http.get("/v1").status_code == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_an_invalid_chunk_is_refused(shared_server: Server, caplog) -> None:
    with shared_server.connect() as connection:
        connection.send(connection.head("POST", QUERY, Transfer_Encoding="chunked") + b"3\r\nabc\r\nzz\r\n")
        problem_or_closed = connection.socket.recv(1 << 16)
        assert problem_or_closed[:12] == b"HTTP/1.1 400"
        assert connection.is_closed()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_head_is_answered_like_get_without_a_body(shared_server: Server) -> None:
    for path in ("/v1", "/v1/galleries/plain/thumbnail?id=003.png", "/v1/nothing"):
        with shared_server.connect() as connection:
            got, headed = connection.request("GET", path), connection.request("HEAD", path)
            assert headed.status_code == got.status_code
            assert headed.content == b""
            for header in ("content-type", "content-length"):
                assert headed.headers[header] == got.headers[header]
            assert answers_again(connection)


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "BREW", "GET", "get"])
def test_other_methods_are_refused(shared_server: Server, method: str) -> None:
    with shared_server.connect() as connection:
        answer = connection.request(method, QUERY)
        problem(answer, 405)
        assert answer.headers["allow"] == "POST"
        assert is_secure(answer)
        assert answers_again(connection)


def test_http_1_0_is_answered(shared_server: Server) -> None:
    with shared_server.connect() as connection:
        connection.send(b"GET /v1 HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert connection.answer().status_code == 200
        assert connection.is_closed()


def test_upgrades_are_ignored(shared_server: Server) -> None:
    with shared_server.connect() as connection:
        answer = connection.request("GET", "/v1", Connection="Upgrade", Upgrade="websocket", Sec_WebSocket_Version="13")
        assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/v1", "/v1/nothing", "/nothing", "/metrics", "/openapi.json", "/v1/galleries/plain"])
def test_every_answer_has_security_headers(shared_server: Server, path: str) -> None:
    assert is_secure(shared_server.http.get(path))
    assert is_secure(shared_server.http.post(path))


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "192.168.0.1", "", "[::2]"]
)
def test_dns_rebinding_is_refused(shared_server: Server, host: str) -> None:
    """DNS rebinding."""
    with shared_server.connect() as connection:
        told = problem(connection.request("GET", "/v1/galleries", Host=host), 403, "Host")
        assert "plain" not in told["detail"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1", "127.0.0.1:1", "[::1]:8765"])
def test_loopback_names_are_accepted(shared_server: Server, host: str) -> None:
    with shared_server.connect() as connection:
        assert connection.request("GET", "/v1", Host=host).status_code == 200


def test_further_host_names_can_be_allowed(serve) -> None:
    server = serve(allowed_hosts=("inspection.example",))
    with server.connect() as connection:
        assert connection.request("GET", "/v1", Host="inspection.example:80").status_code == 200
        assert connection.request("GET", "/v1", Host="INSPECTION.example").status_code == 200
        assert connection.request("GET", "/v1", Host="other.example").status_code == 403


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost.evil.example"]
)
def test_changes_from_other_origins_are_refused(server: Server, origin: str) -> None:
    for path, body in (("remove", {"json": {"ids": ["003.png"]}}), ("images", {"files": parts(("a.png", png(50)))})):
        answer = server.http.post(f"/v1/galleries/plain/{path}", headers={"Origin": origin}, **body)
        problem(answer, 403, "Origin")
        assert "access-control-allow-origin" not in answer.headers
    read = server.http.get("/v1/galleries", headers={"Origin": origin})
    assert "access-control-allow-origin" not in read.headers
    assert server.http.get("/v1/galleries/plain").json()["images"] == 12


def test_changes_from_the_own_origin_are_accepted(server: Server) -> None:
    own = {"Origin": server.url}
    assert server.http.post("/v1/galleries/plain/remove", json={"ids": ["003.png"]}, headers=own).status_code == 200


def test_allowed_origins_may_read_and_change(serve) -> None:
    site = "https://inspection.example"
    server = serve(allowed_origins=(site,))
    ask = {"Origin": site, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "X-Api-Key"}
    preflight = server.http.options(QUERY, headers=ask)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == site
    assert "POST" in preflight.headers["access-control-allow-methods"]

    answer = server.http.post(QUERY, content=png(3), headers={"Origin": site})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == site
    assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
    refused = server.http.post(QUERY, content=b"no image", headers={"Origin": site})
    problem(refused, 422)
    assert refused.headers["access-control-allow-origin"] == site
    with server.connect() as connection:
        connection.send(connection.head("POST", QUERY, Content_Length="999999999999", Origin=site))
        large = connection.answer()
        problem(large, 413)
        assert large.headers["access-control-allow-origin"] == site

    other = server.http.options(QUERY, headers={**ask, "Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers
    assert other.status_code >= 400
    problem(server.http.post(QUERY, content=png(3), headers={"Origin": "https://evil.example"}), 403, "Origin")


def test_hundreds_of_idle_connections_do_not_block_others(serve) -> None:
    server = serve(head_seconds=1)
    idle = [server.connect() for _ in range(300)]
    assert server.query("plain", png(3))["neighbours"]
    assert all(connection.is_closed() for connection in idle)
    for connection in idle:
        connection.close()


@pytest.mark.parametrize("chunks", [b"zz\r\n", b"1\r\nx\r\n" * 2000, b"a" * 20_000])
@pytest.mark.parametrize("method", ["HEAD", "GET", "POST"])
def test_an_invalid_chunk_of_any_method_is_refused_without_an_error(
    shared_server: Server, method: str, chunks: bytes, caplog
) -> None:
    """The answer to HEAD has no body: one that had was an error of the protocol."""
    with shared_server.connect() as connection:
        connection.send(connection.head(method, "/v1/nothing", Transfer_Encoding="chunked") + chunks)
        assert connection.answer(method).status_code in (400, 404)
        assert connection.is_closed()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
