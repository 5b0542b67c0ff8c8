"""Threads that live long: no error ends them, readiness covers them, and a shortage is recovered from."""

import errno
import json
import os
import resource
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spade_index.gallery.write.writer import GalleryWriter
from spade_index.server import engine as engine_module
from spade_index.server.asks import Ask, fail
from spade_index.server.job_files import JobFiles
from spade_index.server.problems import as_problem
from spade_index.server.worker import Worker

from helpers.adding import IMAGES, add, new_images
from helpers.cli_runs import BACKBONE, run, write_normal
from helpers.http_answers import problem
from helpers.service_process import Process
from helpers.serving import Server
from helpers.tiny import png
from helpers.uploads import encoded, parts
from helpers.waiting import PATIENCE, eventually

pytestmark = pytest.mark.usefixtures("decoding_here")
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
FEW = OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def alive(server: Server) -> bool:
    told = [server.metric(f'spade_index_thread_alive{{thread="{name}"}}') for name in ("engine", "jobs")]
    return told == [1, 1] and server.http.get("/v2/health/ready").json() == {"ready": True}


@pytest.mark.parametrize("error", [RuntimeError("unforeseen"), MemoryError(), SystemExit(1), FULL], ids=repr)
def test_no_error_ends_a_worker(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    turns: list[int] = []

    def turn() -> bool:
        turns.append(1)
        if len(turns) == 1:
            raise error
        return len(turns) < 4

    worker = Worker("test", turn)
    worker.start()
    assert worker.join(10)
    assert (len(turns), worker.failures, worker.alive) == (4, 1, False)
    assert "goes on" in caplog.text


def test_a_worker_survives_a_log_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any) -> None:
        raise FULL

    monkeypatch.setattr("spade_index.server.worker.log.exception", fails)
    turns = iter([1, 2, 3])

    def turn() -> bool:
        if next(turns) == 1:
            raise ValueError
        return False

    worker = Worker("test", turn)
    worker.start()
    assert worker.join(10)
    assert worker.failures == 1


@contextmanager
def unwritable(error: OSError) -> Iterator[None]:
    """Let no job's record be written."""

    def fails(*arguments: object) -> None:
        raise error

    with pytest.MonkeyPatch().context() as patch:
        patch.setattr(JobFiles, "write", fails)
        yield


@pytest.mark.parametrize("error", [FULL, FEW], ids=["disk", "descriptors"])
def test_records_that_cannot_be_written_are_written_later(server: Server, root: Path, error: OSError) -> None:
    with server.watch.held():
        first, second = add(server, new_images(1)), add(server, new_images(1, 300))
        server.watch.wait_until_entered()
        with unwritable(error):
            server.watch.release()
            for job in (first, second):
                assert server.finished(job)["report"]["added"] == 1
            assert alive(server)
            problem(server.http.post(IMAGES, files=new_images(1, 400)), 503)
        path = root / ".spade-index" / "jobs" / second / "job.json"
        eventually(lambda: json.loads(path.read_text())["state"] == "done")
    server.finished(add(server, new_images(1, 500)))
    assert sorted(file.name for file in (root / ".spade-index" / "jobs").iterdir()) == sorted(
        job["id"] for job in server.http.get("/v1/jobs").json()["jobs"]
    )


def test_a_service_starts_on_a_full_disk(serve: Callable[..., Server], root: Path) -> None:
    first = serve()
    job = add(first, new_images(1))
    first.finished(job)
    path = root / ".spade-index" / "jobs" / job / "job.json"
    eventually(lambda: json.loads(path.read_text())["state"] == "done")
    first.service.jobs.stop()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"state": "running", "ended": None}))
    with unwritable(FULL):
        second = serve()
        assert second.http.get(f"/v1/jobs/{job}").json()["state"] == "interrupted"
        assert alive(second)
    eventually(lambda: json.loads(path.read_text())["state"] == "interrupted")


def test_a_thread_that_is_gone_is_not_ready(server: Server) -> None:
    assert alive(server)
    server.service.jobs.stop()
    answer = server.http.get("/v2/health/ready")
    assert (answer.status_code, answer.json()) == (503, {"ready": False})
    assert server.metric('spade_index_thread_alive{thread="jobs"}') == 0
    assert server.query("plain", png(3))["neighbours"]


def test_an_answer_that_is_cancelled_while_it_fails_ends_nothing() -> None:
    class Racing(Ask):
        """Its future is cancelled between the look at its state and the error."""

    ask: Any = Racing("plain", None, None, None, None)  # type: ignore[arg-type]
    ask.answer.done = lambda: False
    ask.answer.cancel()
    ask.answer.set_running_or_notify_cancel()
    fail(ask, ValueError())
    assert ask.answer.cancelled()


def test_a_running_job_that_was_cancelled_stays_cancelled_when_the_service_stops(
    serve: Callable[..., Server], root: Path
) -> None:
    first = serve()
    with GalleryWriter(root / "plain"):
        job = add(first, new_images(1))
        eventually(lambda: first.http.get(f"/v1/jobs/{job}").json()["state"] == "running")
        first.service.jobs._stopping = True  # the stop comes first, then the client's wish
        first.http.delete(f"/v1/jobs/{job}")
        first.service.jobs.stop()
    assert serve().http.get(f"/v1/jobs/{job}").json()["state"] == "cancelled"


def test_a_stop_does_not_wait_for_an_index(server: Server, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spade_index.server.jobs.STOP_SECONDS", 0.3)
    monkeypatch.setattr(GalleryWriter, "index_is_stale", lambda self: True)
    entered, built = threading.Event(), threading.Event()
    monkeypatch.setattr(GalleryWriter, "build_index", lambda self: entered.set() or built.wait(PATIENCE))
    job = add(server, new_images(1))
    assert entered.wait(PATIENCE)
    server.service.jobs.stop()
    assert server.service.jobs.worker.alive
    told = json.loads((root / ".spade-index" / "jobs" / job / "job.json").read_text())
    assert told["state"] == "queued"
    built.set()
    eventually(lambda: not server.service.jobs.worker.alive)


def test_a_gallery_that_fails_in_a_batch_does_not_fail_the_others(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(batch_images=16, batch_window=0.5)
    for gallery in ("plain", "calibrated"):
        server.query(gallery, png(3))

    detect = engine_module.Engine._detect

    def fails(self: Any, served: Any, asks: Any, *rest: Any) -> None:
        if asks[0].gallery == "plain":
            raise sqlite3.OperationalError("a damaged gallery")
        detect(self, served, asks, *rest)

    monkeypatch.setattr(engine_module.Engine, "_detect", fails)
    assert statuses(server, ["plain", "calibrated"] * 8) == [500, 200] * 8
    assert alive(server)


def test_an_image_that_the_backbone_refuses_fails_alone(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(batch_images=16, batch_window=0.5)
    server.query("plain", png(3))
    refused = server.service.galleries._open["plain", None].backbone
    come = type(refused)._come

    def refuses(self: Any, pixels: np.ndarray) -> None:
        come(self, pixels)
        if (pixels == 255).all((1, 2, 3)).any():
            raise RuntimeError("not this one")

    monkeypatch.setattr(type(refused), "_come", refuses)
    white = np.full((36, 40, 3), 255, np.uint8)
    assert statuses(server, ["plain"] * 6, white) == [500] + [200] * 5


def statuses(server: Server, galleries: list[str], first: np.ndarray | None = None) -> list[int]:
    """Query all at once; return the statuses in order. `first` is the first image."""
    bodies = [png(number) for number in range(len(galleries))]
    if first is not None:
        bodies[0] = encoded(Image.fromarray(first))
    with ThreadPoolExecutor(len(galleries)) as pool:
        asked = [
            pool.submit(server.http.post, f"/v1/galleries/{gallery}/query", content=body)
            for gallery, body in zip(galleries, bodies, strict=True)
        ]
        return [answer.result().status_code for answer in asked]


@pytest.mark.parametrize("error", [FULL, FEW, MemoryError(), RuntimeError("can't start new thread")], ids=repr)
def test_a_shortage_is_answered_with_retry_after(error: Exception) -> None:
    told = as_problem(error, "/root")
    assert told.status_code == 503
    assert int(told.headers["Retry-After"]) >= 1


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    run("build", write_normal(tmp_path / "images", 4), tmp_path / "root" / "tiles", *BACKBONE, "--no-tune")
    return tmp_path / "root"


def test_a_service_without_file_descriptors_recovers(tiles: Path) -> None:
    """300 silent connections at `ulimit -n 256`."""
    few = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256));"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    files = parts(("new.png", png(100)))
    with Process(tiles, before=few) as process, ExitStack() as silent:
        for _ in range(300):
            silent.enter_context(socket.create_connection(("127.0.0.1", process.port), timeout=5))
        assert process.http.post("/v1/galleries/tiles/query", content=png(3)).status_code == 200
        time.sleep(1)
        silent.close()
        eventually(lambda: process.http.get("/v2/health/ready").status_code == 200)
        job = process.http.post("/v1/galleries/tiles/images", files=files)
        assert process.finished(job.json()["id"])["report"]["added"] == 1
        assert process.http.post("/v1/galleries/tiles/query", content=png(3)).status_code == 200
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
