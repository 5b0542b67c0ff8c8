"""Tests of a service in a process of its own, that is killed, or told to end, while it adds images."""

import json
import shutil
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from spade_index.gallery import Gallery

from helpers.cli_runs import BACKBONE, normal, refused, run, write_normal
from helpers.http_answers import problem
from helpers.service_process import Process
from helpers.uploads import encoded, parts
from helpers.waiting import PATIENCE, eventually

START, SENT, SHARD = 4, 32, 8  # images that are there, that are added, and of a shard
# Commits the first shard and waits for ever.
COMMITS_ONCE = f"""
import itertools, threading
import spade_index.gallery.write.ingest as ingest, spade_index.gallery.write.session as session

session.SHARD_ROWS = {SHARD}
commit, numbers = ingest.commit_shard, itertools.count()
ingest.commit_shard = lambda *arguments: commit(*arguments) if next(numbers) == 0 else threading.Event().wait()
"""
# Reads the last images of a job once it is told to stop (those of the batch at hand are still added), and those of a
# query once the service is told to end.
ENDS_FIRST = f"""
import threading
import spade_index.gallery.write.session as session, spade_index.images.loading as loading
from spade_index.server.decoding import Decoders
from spade_index.server.stopping import PunctualServer
from spade_index.server.worker import Worker

session.SHARD_ROWS = {SHARD}
stopping, ending = threading.Event(), threading.Event()
decoded, join, whole, handle_exit = loading.decoded, Worker.join, Decoders._whole, PunctualServer.handle_exit

def read(file, *arguments):
    if int(file.id.removesuffix(".png")) >= 20:
        stopping.wait()
    return decoded(file, *arguments)

def joined(worker, *seconds):
    if worker.name == "jobs":
        stopping.set()
    return join(worker, *seconds)

loading.decoded, Worker.join = read, joined
Decoders._whole = lambda *arguments: (ending.wait(), whole(*arguments))[1]
PunctualServer.handle_exit = lambda *arguments: (handle_exit(*arguments), ending.set())[0]
"""
AT = "/v1/galleries/tiles"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    run("build", write_normal(folder / "images", START), folder / "root" / "tiles", *BACKBONE, "--no-tune")
    return folder / "root"


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "root"))


@pytest.fixture(scope="module")
def files() -> list:
    return parts(*[(f"{number}.png", encoded(normal(1000 + number))) for number in range(SENT)])


def committed(root: Path) -> int:
    """Return the number of images that were added, after checking that the gallery has no fault."""
    with Gallery(root / "tiles") as gallery:
        assert list(gallery.verify()) == []
        return len(gallery) - START


def started(served: Process, files: list) -> str:
    """Start a job, and return its id."""
    return str(served.http.post(f"{AT}/images", files=files).json()["id"])


def test_a_killed_job_is_interrupted_and_can_be_resumed(root: Path, files: list) -> None:
    with Process(root, before=COMMITS_ONCE) as first:
        job = started(first, files)
        behind = started(first, parts(("more.png", encoded(normal(5000)))))
        eventually(lambda: committed(root))
        first.kill()
    there = committed(root)
    assert there == SHARD

    with Process(root) as second:
        told = second.http.get(f"/v1/jobs/{job}").json()
        assert told["state"] == "interrupted"
        assert (told["done"], told["images"]) == (there, SENT)
        assert f"{there} of {SENT}" in told["error"]
        assert str(root) not in json.dumps(told)
        assert second.finished(behind)["report"]["added"] == 1  # by itself
        assert second.http.get(AT).json()["images"] == START + there + 1
        assert second.http.post(f"{AT}/query", content=encoded(normal(7))).status_code == 200

        assert second.http.post(f"/v1/jobs/{job}/resume").status_code == 202
        told = second.finished(job)
        assert told["report"]["added"] == SENT - there
        assert told["report"]["unchanged"] == there
        assert (told["done"], told["error"]) == (SENT, None)
        problem(second.http.post(f"/v1/jobs/{job}/resume"), 409)
    assert committed(root) == SENT + 1


def test_sigterm_drains_requests_and_requeues_the_job(root: Path, files: list) -> None:
    with (
        Process(root, before=ENDS_FIRST) as first,
        httpx.Client(base_url=first.http.base_url, timeout=PATIENCE) as http,
    ):
        asked = parts(*[("a", encoded(normal(7)))] * 8)
        job = started(first, files)
        eventually(lambda: first.http.get(f"/v1/jobs/{job}").json()["done"] > 0)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(http.post, f"{AT}/query", files=asked)
            eventually(lambda: "spade_index_queue_images 8.0" in first.http.get("/metrics").text)
            first.terminate()
            assert len(answer.result().json()["results"]) == 8
        with pytest.raises(httpx.TransportError):
            first.http.get("/v1")
        assert first.process.returncode in (0, -signal.SIGTERM)
        assert all({"time", "level", "message"} <= set(line) for line in first.log())
        assert "Traceback" not in first.log_text()
    assert committed(root) < SENT
    with Process(root) as second:
        told = second.finished(job)
        assert told["report"]["added"] + told["report"]["unchanged"] == SENT
        assert second.http.get(AT).json()["images"] == START + SENT
    assert committed(root) == SENT


def test_a_port_in_use_is_reported_in_one_line(root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused("serve", root, "--port", port)
    assert f"port {port}" in line
    assert "in use" in line
