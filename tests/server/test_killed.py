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

# Commits after every 8 images, and time in between to be killed in.
SLOWLY = """
import time, spade_index.gallery.write.session as session, spade_index.images.loading as loading
session.SHARD_ROWS = 8
decoded = loading.decoded
loading.decoded = lambda *arguments: (time.sleep(SECONDS), decoded(*arguments))[1]
"""


def slowly(seconds: float) -> str:
    """Return code that makes a service take `seconds` to read each image that it adds."""
    return SLOWLY.replace("SECONDS", str(seconds))


START, SENT = 4, 24  # images that are there, and that are added
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


def started(served: Process, files: list, done: int) -> str:
    """Start a job, and return its id when `done` images are done."""
    job = served.http.post(f"{AT}/images", files=files).json()["id"]
    eventually(lambda: served.http.get(f"/v1/jobs/{job}").json()["done"] >= done)
    return job


def test_a_killed_job_is_interrupted_and_can_be_resumed(root: Path, files: list) -> None:
    with Process(root, before=slowly(0.2)) as first:
        job = started(first, files, 9)
        behind = first.http.post(f"{AT}/images", files=parts(("more.png", encoded(normal(5000))))).json()["id"]
        first.kill()
    there = committed(root)
    assert 0 < there < SENT
    assert there % 8 == 0

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
        Process(root, before=slowly(0.5)) as first,
        httpx.Client(base_url=first.http.base_url, timeout=PATIENCE) as http,
    ):
        large = parts(*[("a", encoded(normal(7).resize((1600, 1200))))] * 8)
        job = started(first, files, 1)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(http.post, f"{AT}/query", files=large)
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
