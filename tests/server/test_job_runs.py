"""Jobs that add images: their order, cancellation, waiting and limits."""

import shutil
import time
from pathlib import Path

import pytest

from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter

from helpers.adding import IMAGES, add, new_images, staged
from helpers.http_answers import problem
from helpers.serving import Server
from helpers.tiny import png
from helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("decoding_here")


def test_jobs_run_in_order_and_are_listed_newest_first(server: Server) -> None:
    with server.watch.held():
        first, second = add(server, new_images(3, 100)), add(server, new_images(3, 200))
        server.watch.wait_until_entered()
        states = [server.http.get(f"/v1/jobs/{job}").json()["state"] for job in (first, second)]
        assert states == ["running", "queued"]
    server.finished(second)
    assert [job["id"] for job in server.http.get("/v1/jobs").json()["jobs"]] == [second, first]
    assert server.http.get("/v1/galleries/plain").json()["images"] == 18


def test_a_queued_job_can_be_cancelled(server: Server, root: Path) -> None:
    with server.watch.held():
        first, second = add(server, new_images(3, 100)), add(server, new_images(3, 200))
        server.watch.wait_until_entered()
        assert server.http.delete(f"/v1/jobs/{second}").json()["state"] == "cancelled"
        assert len(staged(root)) == 3
    server.finished(first)
    assert server.http.get(f"/v1/jobs/{second}").json()["state"] == "cancelled"
    assert server.http.get("/v1/galleries/plain").json()["images"] == 15


def test_a_running_job_can_be_cancelled_and_its_commits_stay(server: Server, root: Path) -> None:
    with server.watch.held():
        job = add(server, new_images(40))
        server.watch.wait_until_entered()
        assert server.http.delete(f"/v1/jobs/{job}").json()["state"] == "running"
    told = server.finished(job, state="cancelled")
    assert told["done"] < 40
    eventually(lambda: staged(root) == [])
    with Gallery(root / "plain") as gallery:
        assert len(gallery) == 12 + told["done"]
        assert told["snapshot"] == gallery.snapshot
        assert list(gallery.verify()) == []
    problem(server.http.post(f"/v1/jobs/{job}/resume"), 409)
    assert server.http.delete(f"/v1/jobs/{job}").json()["state"] == "cancelled"
    server.finished(add(server, new_images(1, 500)))


def test_a_job_can_be_cancelled_during_its_upload(server: Server, root: Path) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="images"; filename="%d.png"\r\n\r\n'
    with server.connect() as connection:
        kind = "multipart/form-data; boundary=b"
        connection.send(connection.head("POST", IMAGES, Content_Type=kind, Content_Length="100000"))
        connection.send(head % 1 + png(1) + b"\r\n" + head % 2)
        eventually(lambda: len(staged(root)) == 2)
        (job,) = server.http.get("/v1/jobs").json()["jobs"]
        assert server.http.delete(f"/v1/jobs/{job['id']}").json()["state"] == "cancelled"
        connection.send(png(2) + b"\r\n" + head % 3)
        problem(connection.answer(), 409)
    assert staged(root) == []


def test_a_job_waits_for_another_writer(server: Server, root: Path) -> None:
    with GalleryWriter(root / "plain"):
        job = add(server, new_images(3))
        eventually(lambda: server.http.get(f"/v1/jobs/{job}").json()["state"] == "running")
        time.sleep(0.2)
        assert server.http.get(f"/v1/jobs/{job}").json()["state"] == "running"
    assert server.finished(job)["report"]["added"] == 3


def test_a_job_waiting_for_another_writer_can_be_cancelled(server: Server, root: Path) -> None:
    with GalleryWriter(root / "plain"):
        job = add(server, new_images(3))
        eventually(lambda: server.http.get(f"/v1/jobs/{job}").json()["state"] == "running")
        server.http.delete(f"/v1/jobs/{job}")
        server.finished(job, state="cancelled")


def test_a_job_fails_when_another_writer_holds_the_lock_too_long(serve, root: Path) -> None:
    server = serve(job_seconds=0.2)
    with GalleryWriter(root / "plain"):
        told = server.finished(add(server, new_images(3)), state="failed")
    assert "another process" in told["error"]
    assert str(root) not in told["error"]


def test_a_job_fails_when_its_gallery_was_deleted(server: Server, root: Path) -> None:
    with server.watch.held():
        first = add(server, new_images(2))
        server.watch.wait_until_entered()
        second = server.http.post("/v1/galleries/other/images", files=new_images(2)).json()["id"]
        shutil.rmtree(root / "other")
    server.finished(first)
    assert "other" in server.finished(second, state="failed")["error"]
    assert server.http.get("/v1/galleries/plain").json()["images"] == 14


def test_jobs_beyond_the_limit_are_refused(serve) -> None:
    server = serve(jobs_waiting=2)
    with server.watch.held():
        jobs = [add(server, new_images(1, seed)) for seed in (100, 200)]
        answer = server.http.post(IMAGES, files=new_images(1, 300))
        problem(answer, 503)
        assert int(answer.headers["retry-after"]) >= 1
    for job in jobs:
        server.finished(job)
    server.finished(add(server, new_images(1, 300)))


def test_only_the_latest_ended_jobs_are_kept(serve, root: Path) -> None:
    server = serve(jobs_kept=3)
    jobs = [add(server, new_images(1, seed)) for seed in range(100, 106)]
    server.finished(jobs[-1])
    eventually(lambda: len(server.http.get("/v1/jobs").json()["jobs"]) <= 3)
    assert server.http.get("/v1/jobs").json()["jobs"][0]["id"] == jobs[-1]
    problem(server.http.get(f"/v1/jobs/{jobs[0]}"), 404, "id")
    assert len(list((root / ".spade-index" / "jobs").iterdir())) <= 3


def test_queries_are_answered_while_a_job_runs(server: Server) -> None:
    job = add(server, new_images(100))
    answered = 0
    while server.http.get(f"/v1/jobs/{job}").json()["state"] in ("queued", "running"):
        assert server.query("plain", png(3))["neighbours"][0]["id"] == "003.png"
        answered += 1
    server.finished(job)
    assert answered >= 1
    assert server.query("plain", png(150))["neighbours"][0]["id"] == "new-150.png"
