"""Limits of request bodies: size, speed, and memory in all."""

import threading
from contextlib import ExitStack

import pytest

from helpers.http_answers import problem
from helpers.tiny import png
from helpers.uploads import parts
from helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("decoding_here")
QUERY = "/v1/galleries/plain/query"


def chunked(connection, path: str, chunks, **headers: str) -> None:
    connection.send(connection.head("POST", path, Transfer_Encoding="chunked", **headers))
    for chunk in chunks:
        connection.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))
    connection.send(b"0\r\n\r\n")


def test_a_body_over_the_limit_is_refused_by_its_content_length(serve) -> None:
    server = serve(body_bytes=10_000)
    with server.connect() as connection:
        connection.send(connection.head("POST", QUERY, Content_Length="10001"))
        told = problem(connection.answer(), 413)
    assert "10,000" in told["detail"]


def test_a_chunked_body_is_refused_at_the_limit(serve) -> None:
    server = serve(body_bytes=10_000)
    with server.connect() as connection:
        chunked(connection, QUERY, [b"x" * 1000] * 11)
        problem(connection.answer(), 413)
    with server.connect() as connection:
        chunked(connection, QUERY, [png(3)[start : start + 1000] for start in range(0, len(png(3)), 1000)])
        assert connection.answer().status_code == 200


@pytest.mark.parametrize("kind", ["raw", "form", "chunked"])
def test_a_client_that_sends_far_too_much_can_read_the_answer(serve, kind: str) -> None:
    server = serve(body_bytes=10_000)
    data = b"x" * 8_000_000  # far beyond what the system buffers
    if kind == "raw":
        with server.connect() as connection:
            answer = connection.request("POST", QUERY, data)
    elif kind == "form":
        answer = server.http.post(QUERY, files=parts(("a.png", data)))
    else:
        answer = server.http.post(QUERY, content=iter([data[:1_000_000]] * 8))
    problem(answer, 413)
    assert server.query("plain", png(3))["neighbours"]


def test_uploads_to_a_gallery_have_their_own_limit(serve) -> None:
    server = serve(body_bytes=10_000, add_bytes=100_000)
    at = "/v1/galleries/plain/images"
    files = [(f"{seed}.png", png(seed)) for seed in range(100, 110)]
    assert 10_000 < sum(len(data) for _, data in files) < 100_000
    assert server.http.post(at, files=parts(*files)).status_code == 202
    problem(server.http.post(at, files=parts(("a.png", b"x" * 200_000))), 413)
    assert not [job for job in server.http.get("/v1/jobs").json()["jobs"] if job["state"] == "receiving"]


def test_a_stalled_body_times_out(serve) -> None:
    server = serve(body_seconds=0.5)
    with server.connect() as connection:
        connection.send(connection.head("POST", QUERY, Content_Length="1000") + b"x" * 10)
        problem(connection.answer(), 408)
        assert connection.is_closed()


def test_a_dripping_body_times_out(serve) -> None:
    server = serve(body_seconds=1)
    with server.connect() as connection:
        connection.send(connection.head("POST", QUERY, Content_Length="100000"))
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.1):
                try:
                    connection.send(b"x")
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            problem(connection.answer(), 408)
        finally:
            stop.set()
            dripping.join()


def test_slow_bodies_do_not_occupy_the_queue(serve) -> None:
    server = serve(queue_images=2, request_images=2)
    slow = [server.connect() for _ in range(5)]
    for connection in slow:
        connection.send(connection.head("POST", QUERY, Content_Length="1000") + b"x")
    eventually(lambda: len(server._uvicorn.server_state.tasks) >= 5)
    assert server.query("plain", png(3))["neighbours"]
    for connection in slow:
        connection.close()


def test_the_bodies_of_all_requests_have_a_common_limit(serve) -> None:
    server = serve(held_bytes=50_000, body_bytes=40_000)
    first = server.connect()
    first.send(first.head("POST", QUERY, Content_Length="40000") + b"x" * 39_999)
    eventually(lambda: server.middleware_held() > 39_000)
    answer = server.http.post(QUERY, content=b"x" * 20_000)
    problem(answer, 503)
    assert int(answer.headers["retry-after"]) >= 1
    first.close()
    eventually(lambda: server.middleware_held() == 0)
    assert server.query("plain", png(3))["neighbours"]


@pytest.mark.parametrize("path", [QUERY, "/v1/galleries/plain/remove", "/v2/models/plain/infer", "/v1/query"])
def test_bodies_without_a_key_take_no_room_and_no_work(serve, path: str) -> None:
    key = "key-0123456789abcdef"
    server = serve(held_bytes=50_000, body_bytes=40_000, keys=f"{key} plain write")
    ids = b'{"ids": [%s]}' % b",".join([b"1"] * 19_000)
    with ExitStack() as stack:
        for _ in range(9):
            half = stack.enter_context(server.connect())
            half.send(half.head("POST", path, Content_Length="39000", Content_Type="application/json") + ids[:39_000])
            answer = half.answer()
            assert (answer.status_code, len(answer.content) < 500) == (401, True)
        assert server.middleware_held() == 0
        answer = server.http.post(QUERY, content=png(3), headers={"X-Api-Key": key})
        assert answer.status_code == 200


def test_a_client_that_disconnects_during_its_body_is_not_an_error(serve, caplog) -> None:
    server = serve()
    for body in (b"x" * 10, b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\nabc'):
        with server.connect() as connection:
            kind = "multipart/form-data; boundary=b" if body.startswith(b"--b") else "image/png"
            connection.send(connection.head("POST", QUERY, Content_Length="1000", Content_Type=kind) + body)
            eventually(lambda: server.middleware_held() > 0)
        eventually(lambda: server.middleware_held() == 0)
    eventually(lambda: server.metric(disconnects("query")) == 2)
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def disconnects(route: str) -> str:
    return f'spade_index_requests_total{{method="POST",route="/v1/galleries/{{gallery}}/{route}",status="499"}}'
