"""Limits of the queue, expired requests and disconnected clients."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from helpers.http_answers import problem
from helpers.tiny import png
from helpers.uploads import parts
from helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("decoding_here")
QUERY = "/v1/galleries/plain/query"


def test_a_full_queue_refuses_at_once_with_retry_after(serve) -> None:
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


def test_a_request_that_does_not_fit_the_queue_is_refused_whole(serve) -> None:
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


def test_an_expired_request_is_refused_and_not_computed(serve) -> None:
    server = serve(request_seconds=60, batch_images=1)
    server.query("plain", png(3))
    before = server.watch.images
    with server.watch.held(), ThreadPoolExecutor(2) as pool:
        first = pool.submit(server.http.post, QUERY, content=png(3))
        server.watch.wait_until_entered()
        late = pool.submit(server.http.post, QUERY, content=png(4))
        server.wait_until_waiting(1)
        server.age_waiting(60)
        server.watch.release()
        assert first.result().status_code == 200
        answer = late.result()
        problem(answer, 503)
        assert int(answer.headers["retry-after"]) >= 1
    assert server.watch.images == before + 1
    assert server.metric('spade_index_refused_total{reason="late"}') == 1


def test_requests_of_disconnected_clients_are_not_computed(serve) -> None:
    server = serve(batch_images=1)
    server.query("plain", png(3))
    before = server.watch.images
    data = png(5)
    with server.watch.held():
        first = server.connect()
        first.send(first.head("POST", QUERY, Content_Length=str(len(data))) + data)
        server.watch.wait_until_entered()
        leaving = [server.connect() for _ in range(5)]
        for connection in leaving:
            connection.send(connection.head("POST", QUERY, Content_Length=str(len(data))) + data)
        server.wait_until_waiting(5)
        for connection in leaving:
            connection.close()
        eventually(lambda: server.metric("spade_index_queue_images") == 1)
        server.watch.release()
        assert first.answer().status_code == 200
        first.close()
    server.query("plain", png(3))
    assert server.watch.images == before + 2


def test_a_failed_request_leaves_nothing_in_the_queue(serve) -> None:
    server = serve(batch_images=1, request_seconds=60)
    server.query("plain", png(3))
    before = server.watch.images
    files = parts(*[(f"{n}.png", png(n)) for n in range(6)])
    with server.watch.held(), ThreadPoolExecutor(2) as pool:
        first = pool.submit(server.http.post, QUERY, content=png(3))
        server.watch.wait_until_entered()
        late = pool.submit(server.http.post, QUERY, files=files)
        server.wait_until_waiting(6)
        server.age_waiting(60)
        server.watch.release()
        assert first.result().status_code == 200
        problem(late.result(), 503)
    assert server.metric("spade_index_queue_images") == 0
    assert server.watch.images == before + 1


def test_every_request_is_answered_under_overload(serve) -> None:
    """Several times more requests than the queue holds, all at once."""
    server = serve(queue_images=8, request_images=2, batch_images=4)

    def ask(number: int) -> int:
        with httpx.Client(base_url=server.url, timeout=30, verify=False) as http:
            return http.post(QUERY, content=png(number % 12)).status_code

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, range(96)))
    assert set(answers) <= {200, 503}
    assert answers.count(200) >= 8
    assert server.metric("spade_index_queue_images") == 0
    assert server.query("plain", png(3))["neighbours"]
