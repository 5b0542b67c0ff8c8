"""Images of strangers are decoded in processes within limits, which are replaced; the service goes on."""

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from helpers.adding import IMAGES, add
from helpers.hostile_images import flat_png, slow_bmp
from helpers.http_answers import problem
from helpers.limit_table import status
from helpers.serving import Server
from helpers.tiny import png
from helpers.uploads import parts
from helpers.waiting import eventually

QUERY = "/v1/galleries/plain/query"
MIB = 1 << 20


def replaced(server: Server, reason: str) -> float:
    return server.metric(f'spade_index_decoders_replaced_total{{reason="{reason}"}}')


def test_limit_decode_bytes(serve: Callable[..., Server]) -> None:
    server = serve(decode_bytes=64 * MIB)
    assert server.query("plain", flat_png(1500))["neighbours"]
    told = problem(server.http.post(QUERY, content=flat_png(6000)), status("decode_bytes"), "images[0]")
    assert told["detail"] == "images[0]: decoding it takes more than 64 MiB of memory"
    report = server.finished(add(server, parts(("large.png", flat_png(6000)), ("new.png", png(99)))))
    assert (report["report"]["failed"], report["report"]["added"]) == (1, 1)
    assert report["notices"] == ["skipped upload::large.png: decoding it takes more than 64 MiB of memory"]


def test_limit_decode_seconds(serve: Callable[..., Server]) -> None:
    server = serve(decode_seconds=0.5, decoders=2)
    assert server.query("plain", slow_bmp(40, 36))["neighbours"]
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(server.http.post, QUERY, content=slow_bmp())
        assert server.query("plain", png(3))["neighbours"]  # meanwhile
        told = problem(slow.result(), status("decode_seconds"), "images[0]")
    assert told["detail"] == "images[0]: decoding it takes more than 0.5 seconds"
    assert (replaced(server, "late"), replaced(server, "died")) == (1, 0)
    report = server.finished(add(server, parts(("slow.bmp", slow_bmp()), ("new.png", png(99)))))
    assert (report["report"]["failed"], report["report"]["added"]) == (1, 1)
    assert report["notices"] == ["skipped upload::slow.bmp: decoding it takes more than 0.5 seconds"]


def test_a_process_that_is_killed_while_it_decodes_is_replaced_and_the_image_tried_again(
    serve: Callable[..., Server],
) -> None:
    server = serve(decoders=1)
    server.query("plain", png(3))
    pool = server.service.decoders.queries
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(server.http.post, QUERY, content=slow_bmp(20_000, 400))
        eventually(lambda: pool._busy)
        os.kill(pool.pids[0], signal.SIGKILL)
        assert slow.result().status_code == 200
    assert replaced(server, "died") == 1
    assert server.query("plain", png(4))["neighbours"]


def test_a_process_that_dies_twice_of_an_image_is_one_line(serve: Callable[..., Server]) -> None:
    server = serve(decoders=1)
    pool = server.service.decoders.queries
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(0.3):
            for decoder in list(pool._busy):
                if decoder._started:
                    os.kill(decoder.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    told = problem(server.http.post(QUERY, content=slow_bmp(), timeout=60), 422, "images[0]")
    stop.set()
    killer.join()
    assert told["detail"] == "images[0]: the process that decoded it died (signal 9)"
    assert server.query("plain", png(4))["neighbours"]


def test_idle_processes_that_die_are_replaced(serve: Callable[..., Server]) -> None:
    server = serve(decoders=3)
    eventually(lambda: server.metric("spade_index_decoders") == 3)
    before = server.service.decoders.queries.pids
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(set(server.service.decoders.queries.pids) - set(before)) == 3)
    assert server.http.get("/v2/health/ready").json() == {"ready": True}
    assert replaced(server, "died") == 3
    assert server.query("plain", png(4))["neighbours"]


def test_a_service_without_a_decoder_is_not_ready(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(decoders=1)
    decoders = server.service.decoders

    def fails(*arguments: object, **options: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr("spade_index.images.workers.process.subprocess.Popen", fails)
        for pid in decoders.queries.pids:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: server.http.get("/v2/health/ready").status_code == 503)
        told = problem(server.http.post(QUERY, content=png(3)), 503)
        assert "can be started" in told["detail"]
        assert decoders.worker.alive
    eventually(lambda: server.http.get("/v2/health/ready").status_code == 200)
    assert server.query("plain", png(4))["neighbours"]


def test_a_stop_does_not_wait_for_an_image(serve: Callable[..., Server]) -> None:
    server = serve()
    job = add(server, parts(("slow.bmp", slow_bmp(60_000, 800))))
    eventually(lambda: server.service.decoders.jobs._busy)
    server.service.decoders.stop()
    server.service.jobs.stop()
    assert not server.service.jobs.worker.alive
    assert server.service.jobs.get(job).state == "queued"
    assert server.service.decoders.queries.pids == server.service.decoders.jobs.pids == []
    problem(server.http.post(QUERY, content=png(3)), 503)
    assert server.http.get(IMAGES).status_code == 200
