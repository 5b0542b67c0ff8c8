"""Each limit of jobs, as docs/serve.md names it, from both sides."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spade_index.images import loading
from spade_index.server import jobs, limits

from helpers.adding import add, locked, new_images
from helpers.http_answers import problem
from helpers.limit_table import status
from helpers.serving import Server
from helpers.tiny import png
from helpers.uploads import parts
from helpers.waiting import PATIENCE, eventually

pytestmark = pytest.mark.usefixtures("decoding_here")


def test_limit_jobs_waiting(serve: Callable[..., Server]) -> None:
    server = serve(jobs_waiting=2)
    server.query("plain", png(3))
    with server.watch.held():
        first, second = add(server, new_images(1)), add(server, new_images(1, 200))
        answer = server.http.post("/v1/galleries/plain/images", files=new_images(1, 300))
        problem(answer, status("jobs_waiting"))
        assert int(answer.headers["retry-after"]) >= 1
    server.finished(first)
    server.finished(second)
    server.finished(add(server, new_images(1, 300)))


def test_limit_job_seconds(serve: Callable[..., Server], root: Path) -> None:
    patient, hasty = serve(job_seconds=PATIENCE), serve(job_seconds=0.2)
    with locked(root, 0.4):
        patient.finished(add(patient, new_images(1)))
    with locked(root):
        assert "writing" in hasty.finished(add(hasty, new_images(1, 200)), state="failed")["error"]


def test_limit_jobs_kept(serve: Callable[..., Server]) -> None:
    server = serve(jobs_kept=2)
    ended = []
    for start in (100, 200, 300):
        ended.append(add(server, new_images(1, start)))
        server.finished(ended[-1])
        time.sleep(0.01)
    eventually(lambda: server.http.get(f"/v1/jobs/{ended[0]}").status_code == status("jobs_kept"))
    assert [server.http.get(f"/v1/jobs/{job}").status_code for job in ended[1:]] == [200, 200]


def noticed(server: Server, names: list[str]) -> list[str]:
    files = parts(*[(name, b"no image") for name in names])
    job = server.http.post("/v1/galleries/plain/images", files=files).json()["id"]
    return list(server.finished(job)["notices"])


def test_limit_notices(server: Server) -> None:
    for count in (limits.NOTICES, limits.NOTICES + 1):
        assert len(noticed(server, [f"{number}.png" for number in range(count)])) == limits.NOTICES


def test_limit_notice_length(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    (whole,) = noticed(server, ["a.png"])
    for length in (len(whole), len(whole) - 1):
        monkeypatch.setattr(jobs, "NOTICE_LENGTH", length)
        assert noticed(server, ["a.png"]) == [whole[:length]]


@pytest.mark.parametrize("ends", [True, False])
def test_limit_stop_seconds(server: Server, root: Path, monkeypatch: pytest.MonkeyPatch, ends: bool) -> None:
    monkeypatch.setattr(jobs, "STOP_SECONDS", PATIENCE if ends else 0.2)
    entered, end = threading.Event(), threading.Event()
    decoded = loading.decoded

    def slow(*arguments: Any) -> Any:
        entered.set()
        end.wait(0.3 if ends else PATIENCE)
        return decoded(*arguments)

    monkeypatch.setattr(loading, "decoded", slow)
    job = add(server, new_images(1))
    assert entered.wait(PATIENCE)
    server.service.jobs.stop()
    state = json.loads((root / ".spade-index" / "jobs" / job / "job.json").read_text())["state"]
    assert state in (("queued", "done") if ends else ("queued",))
    assert server.service.jobs.worker.alive != ends
    end.set()
    server.service.jobs.worker.join(PATIENCE)
