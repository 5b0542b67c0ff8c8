"""Tests of the limits: bodies, images, the queue, and time."""

import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest

from spade_index.server.results import Result

from helpers.http_answers import problem
from helpers.serving import Server
from helpers.tiny import png
from helpers.uploads import parts
from helpers.waiting import PATIENCE, eventually

QUERY = "/v1/galleries/plain/query"


def claimed_png(width: int, height: int) -> bytes:
    """A PNG file of a few bytes that claims to be large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def chunked(connection, path: str, chunks, **headers: str) -> None:
    connection.send(connection.head("POST", path, Transfer_Encoding="chunked", **headers))
    for chunk in chunks:
        connection.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))
    connection.send(b"0\r\n\r\n")


def test_a_body_over_the_limit_is_refused_before_it_is_sent(serve) -> None:
    server = serve(body_bytes=10_000)
    with server.connect() as connection:
        connection.send(connection.head("POST", QUERY, Content_Length="10001"))
        told = problem(connection.answer(), 413)
    assert "10,000" in told["detail"]


def test_a_body_that_does_not_say_its_length_is_refused_at_the_limit(serve) -> None:
    server = serve(body_bytes=10_000)
    with server.connect() as connection:
        chunked(connection, QUERY, [b"x" * 1000] * 11)
        problem(connection.answer(), 413)
    with server.connect() as connection:
        chunked(connection, QUERY, [png(3)[start : start + 1000] for start in range(0, len(png(3)), 1000)])
        assert connection.answer().status_code == 200


@pytest.mark.parametrize("kind", ["raw", "form", "chunked"])
def test_a_client_that_sends_far_too_much_gets_to_read_why(serve, kind: str) -> None:
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


def test_adding_has_a_limit_of_its_own(serve) -> None:
    server = serve(body_bytes=10_000, add_bytes=100_000)
    at = "/v1/galleries/plain/images"
    files = [(f"{seed}.png", png(seed)) for seed in range(100, 110)]
    assert 10_000 < sum(len(data) for _, data in files) < 100_000
    assert server.http.post(at, files=parts(*files)).status_code == 202
    problem(server.http.post(at, files=parts(("a.png", b"x" * 200_000))), 413)
    assert not [job for job in server.http.get("/v1/jobs").json()["jobs"] if job["state"] == "receiving"]


def test_a_body_that_stops_coming_is_not_waited_for(serve) -> None:
    server = serve(body_seconds=0.5)
    with server.connect() as connection:
        connection.send(connection.head("POST", QUERY, Content_Length="1000") + b"x" * 10)
        problem(connection.answer(), 408)
        assert connection.is_closed()


def test_a_body_that_drips_is_not_waited_for_for_ever(serve) -> None:
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


def test_slow_bodies_take_no_room_from_others(serve) -> None:
    server = serve(queue_images=2, request_images=2)
    slow = [server.connect() for _ in range(5)]
    for connection in slow:
        connection.send(connection.head("POST", QUERY, Content_Length="1000") + b"x")
    eventually(lambda: len(server._uvicorn.server_state.tasks) >= 5)
    assert server.query("plain", png(3))["neighbours"]
    for connection in slow:
        connection.close()


@pytest.mark.parametrize("head", [b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n"])
def test_a_head_that_does_not_come_is_not_waited_for(serve, head: bytes) -> None:
    server = serve(head_seconds=0.5)
    with server.connect() as connection:
        connection.send(head)
        assert connection.is_closed()


def test_a_head_that_drips_is_not_waited_for(serve) -> None:
    server = serve(head_seconds=0.5)
    with server.connect() as connection:
        began = time.monotonic()
        connection.send(b"GET / HTTP/1.1\r\n")
        with suppress(ConnectionError):
            while time.monotonic() < began + PATIENCE:
                connection.send(b"X-A: b\r\n")
                time.sleep(0.05)
        assert time.monotonic() < began + PATIENCE


def test_a_second_request_may_not_drip_either(serve) -> None:
    server = serve(head_seconds=0.5)
    with server.connect() as connection:
        assert connection.request("GET", "/v1").status_code == 200
        connection.send(b"GET / HTTP/1.1\r\nHost:")
        assert connection.is_closed()


def test_a_request_that_takes_longer_than_a_head_may_is_answered(serve) -> None:
    server = serve(head_seconds=0.3)
    with server.connect() as connection:
        data = png(3)
        with server.watch.held():
            connection.send(connection.head("POST", QUERY, Content_Length=str(len(data))))
            for start in range(0, len(data), 1000):
                connection.send(data[start : start + 1000])
                time.sleep(0.1)
            time.sleep(0.5)
        assert connection.answer().status_code == 200


@pytest.mark.parametrize("size", [20_000, 1_000_000])
def test_a_head_that_is_too_long_is_refused(shared_server: Server, size: int) -> None:
    with shared_server.connect() as connection:
        connection.send(b"GET /v1 HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * 15_000)
        with suppress(ConnectionError):  # who does not stop may miss the answer
            for _ in range(size // 1000):
                connection.send(b"a" * 1000)
            problem(connection.answer(), 400)
        assert connection.is_closed()
    assert shared_server.http.get("/v1").status_code == 200


def test_too_many_images_are_refused(serve) -> None:
    server = serve(request_images=3)
    files = [(f"{seed}.png", png(seed)) for seed in range(4)]
    told = problem(server.http.post(QUERY, files=parts(*files)), 422, "images")
    assert "3" in told["detail"]
    assert len(server.http.post(QUERY, files=parts(*files[:3])).json()["results"]) == 3
    problem(server.http.post("/v1/galleries/plain/score-map", files=parts(*files[:2])), 422, "images")


def test_too_many_images_to_add_are_refused(serve) -> None:
    server = serve(add_images=3)
    files = [(f"{seed}.png", png(seed)) for seed in range(100, 104)]
    problem(server.http.post("/v1/galleries/plain/images", files=parts(*files)), 422, "images")
    assert server.http.get("/v1/jobs").json()["jobs"] == []


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (30_000, 3), (0, 0)])
def test_an_image_that_claims_too_many_pixels_is_refused(serve, size: tuple[int, int]) -> None:
    server = serve(image_pixels=50_000)
    problem(server.http.post(QUERY, content=claimed_png(*size)), 422, "images[0]")
    assert server.query("plain", png(3))["neighbours"]


def test_the_limit_of_pixels_is_the_settings(serve, root) -> None:
    small = serve(image_pixels=40 * 36 - 1)
    told = problem(small.http.post(QUERY, content=png(3)), 422, "images[0]")
    assert "1,439" in told["detail"]
    job = small.http.post("/v1/galleries/plain/images", files=parts(("new.png", png(99)))).json()
    report = small.finished(job["id"])
    assert report["report"]["failed"] == 1
    assert "1,439" in report["notices"][0]
    exact = serve(image_pixels=40 * 36)
    told = exact.query("plain", png(3))
    assert exact.http.get(told["score_map"]["overlay"]).status_code == 200


def test_beyond_the_queue_requests_are_refused_at_once_and_told_when_to_come_back(serve) -> None:
    server = serve(queue_images=4, request_images=2, batch_images=2)
    server.query("plain", png(3))
    files = parts(("a.png", png(1)), ("b.png", png(2)))
    with server.watch.held(), ThreadPoolExecutor(2) as pool:
        admitted = [pool.submit(server.http.post, QUERY, files=files) for _ in range(2)]
        eventually(lambda: server.metric("spade_index_queue_images") == 4)
        for options in ({"content": png(3)}, {"files": files}):
            answer = server.http.post(QUERY, **options)
            problem(answer, 503)
            assert int(answer.headers["retry-after"]) >= 1
        assert server.metric('spade_index_refused_total{reason="queue"}') == 2
        server.watch.release()
        assert [len(answer.result().json()["results"]) for answer in admitted] == [2, 2]
    assert server.metric("spade_index_queue_images") == 0
    assert server.query("plain", png(3))["neighbours"]


def test_a_request_with_more_images_than_there_is_room_for_is_refused_whole(serve) -> None:
    server = serve(queue_images=4, request_images=4, batch_images=1)
    server.query("plain", png(3))
    before = server.watch.images
    with server.watch.held(), ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.http.post, QUERY, content=png(3))
        server.watch.wait_until_entered()
        problem(server.http.post(QUERY, files=parts(*[(f"{n}.png", png(n)) for n in range(4)])), 503)
        server.watch.release()
        assert first.result().status_code == 200
    assert server.watch.images == before + 1


def test_who_waited_too_long_is_told_so_and_nothing_is_computed_for_him(serve) -> None:
    server = serve(request_seconds=0.3, batch_images=1)
    server.query("plain", png(3))
    before = server.watch.images
    with server.watch.held(), ThreadPoolExecutor(2) as pool:
        first = pool.submit(server.http.post, QUERY, content=png(3))
        server.watch.wait_until_entered()
        late = pool.submit(server.http.post, QUERY, content=png(4))
        server.wait_until_waiting(1)
        time.sleep(0.5)
        server.watch.release()
        assert first.result().status_code == 200
        answer = late.result()
        problem(answer, 503)
        assert int(answer.headers["retry-after"]) >= 1
    assert server.watch.images == before + 1
    assert server.metric('spade_index_refused_total{reason="late"}') == 1


def test_bodies_of_all_requests_together_have_a_limit(serve) -> None:
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


def test_who_went_away_is_not_computed_for(serve) -> None:
    server = serve(batch_images=1)
    server.query("plain", png(3))
    before = server.watch.images
    data = png(5)
    with server.watch.held():
        first = server.connect()
        first.send(first.head("POST", QUERY, Content_Length=str(len(data))) + data)
        server.watch.wait_until_entered()
        gone = [server.connect() for _ in range(5)]
        for connection in gone:
            connection.send(connection.head("POST", QUERY, Content_Length=str(len(data))) + data)
        server.wait_until_waiting(5)
        for connection in gone:
            connection.close()
        eventually(lambda: server.metric("spade_index_queue_images") == 1)
        server.watch.release()
        assert first.answer().status_code == 200
        first.close()
    server.query("plain", png(3))
    assert server.watch.images == before + 2


def test_a_request_that_fails_leaves_nothing_to_be_computed(serve) -> None:
    server = serve(batch_images=1, request_seconds=0.3)
    server.query("plain", png(3))
    before = server.watch.images
    files = parts(*[(f"{n}.png", png(n)) for n in range(6)])
    with server.watch.held(), ThreadPoolExecutor(2) as pool:
        first = pool.submit(server.http.post, QUERY, content=png(3))
        server.watch.wait_until_entered()
        late = pool.submit(server.http.post, QUERY, files=files)
        server.wait_until_waiting(6)
        time.sleep(0.5)
        server.watch.release()
        assert first.result().status_code == 200
        problem(late.result(), 503)
    assert server.metric("spade_index_queue_images") == 0
    assert server.watch.images == before + 1


def test_who_goes_away_while_he_sends_is_no_failure_of_the_service(serve, caplog) -> None:
    server = serve()
    for body in (b"x" * 10, b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\nabc'):
        with server.connect() as connection:
            kind = "multipart/form-data; boundary=b" if body.startswith(b"--b") else "image/png"
            connection.send(connection.head("POST", QUERY, Content_Length="1000", Content_Type=kind) + body)
            eventually(lambda: server.middleware_held() > 0)
        eventually(lambda: server.middleware_held() == 0)
    eventually(lambda: server.metric(gone("query")) == 2)
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def gone(route: str) -> str:
    return f'spade_index_requests_total{{method="POST",route="/v1/galleries/{{gallery}}/{route}",status="499"}}'


def test_only_so_many_pictures_are_drawn_at_once(serve, monkeypatch) -> None:
    """Each takes a whole image's memory."""
    server = serve(decoders=2)
    link = server.query("plain", png(3))["score_map"]["overlay"]
    drawn, lock, draw = [0, 0], threading.Lock(), Result.overlay

    def counted(self: Result, opacity: float) -> object:
        with lock:
            drawn[0] += 1
            drawn[1] = max(drawn)
        time.sleep(0.05)
        with lock:
            drawn[0] -= 1
        return draw(self, opacity)

    monkeypatch.setattr(Result, "overlay", counted)
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: server.http.get(link).status_code, range(20)))
    assert answers == [200] * 20
    assert drawn[1] == 2


def test_every_request_beyond_what_the_service_can_do_is_answered(serve) -> None:
    """Several times more requests than the queue holds, all at once."""
    server = serve(queue_images=8, request_images=2, batch_images=4)

    def ask(number: int) -> int:
        with httpx.Client(base_url=server.url, timeout=30) as http:
            return http.post(QUERY, content=png(number % 12)).status_code

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, range(96)))
    assert set(answers) <= {200, 503}
    assert answers.count(200) >= 8
    assert server.metric("spade_index_queue_images") == 0
    assert server.query("plain", png(3))["neighbours"]
