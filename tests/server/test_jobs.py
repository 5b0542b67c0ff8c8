"""Tests of jobs that add images."""

import json
import shutil
import threading
import time
from pathlib import Path

import pytest

from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter

from helpers.http_answers import problem
from helpers.serving import Server
from helpers.tiny import png
from helpers.uploads import parts
from helpers.waiting import eventually

AT = "/v1/galleries/plain/images"


def new(count: int, start: int = 100) -> list:
    return parts(*[(f"new-{seed}.png", png(seed)) for seed in range(start, start + count)])


def add(server: Server, files: list, **parameters: object) -> str:
    answer = server.http.post(AT, files=files, params=parameters)
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def staged(root: Path) -> list[Path]:
    return sorted((root / ".spade-index" / "jobs").glob("*/images/*"))


def test_a_job_is_told_from_its_beginning_to_its_end(server: Server, root: Path) -> None:
    with server.watch.held():
        job = add(server, new(20))
        first = server.http.get(f"/v1/jobs/{job}").json()
        assert first["state"] in ("queued", "running")
        assert (first["images"], first["report"], first["ended"]) == (20, None, None)
        server.watch.wait_until_entered()
        assert server.http.get(f"/v1/jobs/{job}").json()["state"] == "running"
        assert len(staged(root)) == 20
    told = server.finished(job)
    assert (told["images"], told["done"]) == (20, 20)
    assert told["report"] == {"added": 20, "replaced": 0, "unchanged": 0, "copies": 0, "changed": 0, "failed": 0}
    assert told["created"] <= told["started"] <= told["ended"]
    assert (told["notices"], told["error"], told["gallery"]) == ([], None, "plain")
    eventually(lambda: staged(root) == [])
    with Gallery(root / "plain") as gallery:
        assert len(gallery) == 32
        assert list(gallery.verify()) == []


def test_how_far_a_job_is_can_be_watched(server: Server) -> None:
    seen = set()
    job = add(server, new(60))
    eventually(lambda: seen.add(server.http.get(f"/v1/jobs/{job}").json()["done"]) or 60 in seen)
    assert seen == {done for done in seen if 0 <= done <= 60}


def test_images_that_cannot_be_decoded_are_named_and_left_out(server: Server) -> None:
    files = parts(("good.png", png(100)), ("bad.png", b"no image"), ("cut.jpg", png(101)[:50]))
    told = server.finished(add(server, files))
    assert told["report"]["added"] == 1
    assert told["report"]["failed"] == 2
    assert len(told["notices"]) == 2
    assert any("bad.png" in notice for notice in told["notices"])
    assert told["done"] == told["images"] == 3


def test_names_become_ids_under_a_prefix(server: Server) -> None:
    server.finished(add(server, parts(("a.png", png(100)), ("sub/b.png", png(101))), prefix="line-2/"))
    ids = [image["id"] for image in server.http.get(AT, params={"after": 12}).json()["images"]]
    assert ids == ["line-2/a.png", "line-2/sub/b.png"]
    problem(server.http.post(AT, files=new(1), params={"prefix": "a\nb"}), 422, "prefix")
    problem(server.http.post(AT, files=new(1), params={"prefix": "a" * 1000}), 422, "prefix")


def test_a_name_that_leads_elsewhere_is_only_a_name(server: Server, root: Path) -> None:
    names = ["../../../evil.png", "/etc/evil.png", "..", "job.json", "a" * 1000]
    server.finished(add(server, parts(*[(name, png(100 + n)) for n, name in enumerate(names)])))
    assert not list(root.parent.glob("**/*evil*"))
    ids = [image["id"] for image in server.http.get(AT, params={"after": 12}).json()["images"]]
    assert len(ids) == 5
    assert server.query("plain", png(100))["neighbours"][0]["id"] == ids[0]


def test_changed_images_are_kept_or_replaced(server: Server) -> None:
    files = parts(("003.png", png(100)))
    kept = server.finished(add(server, files))
    assert kept["report"]["changed"] == 1
    assert server.query("plain", png(3))["neighbours"][0] == {"id": "003.png", "distance": 0.0}
    replaced = server.finished(add(server, files, replace=True))
    assert replaced["report"]["replaced"] == 1
    assert server.query("plain", png(100))["neighbours"][0] == {"id": "003.png", "distance": 0.0}


def test_names_must_be_there_and_differ(server: Server, root: Path) -> None:
    problem(server.http.post(AT, files=parts(("a.png", png(1)), ("a.png", png(2)))), 422, "images[1]")
    body = b'--b\r\nContent-Disposition: form-data; name="images"; filename=""\r\n\r\nx\r\n--b--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    problem(server.http.post(AT, content=body, headers=headers), 422, "images[0]")
    assert server.http.get("/v1/jobs").json()["jobs"] == []
    assert staged(root) == []


def test_what_does_not_come_whole_leaves_nothing(server: Server, root: Path) -> None:
    with server.connect() as connection:
        head = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
        kind = "multipart/form-data; boundary=b"
        connection.send(connection.head("POST", AT, Content_Type=kind, Content_Length="100000") + head + png(1))
        eventually(lambda: staged(root))
        (job,) = server.http.get("/v1/jobs").json()["jobs"]
        assert job["state"] == "receiving"
    eventually(lambda: server.http.get("/v1/jobs").json()["jobs"] == [])
    assert staged(root) == []
    assert list((root / ".spade-index" / "jobs").iterdir()) == []


def test_files_go_to_the_disk_as_they_come(server: Server, root: Path) -> None:
    """Neither memory nor open files grow with what a form holds."""
    import os

    sockets = len(os.listdir("/proc/self/fd"))
    with server.connect() as connection:
        kind = "multipart/form-data; boundary=b"
        connection.send(connection.head("POST", AT, Content_Type=kind, Transfer_Encoding="chunked"))
        for number in range(50):
            head = f'--b\r\nContent-Disposition: form-data; name="images"; filename="{number}.png"\r\n\r\n'
            part = head.encode() + os.urandom(1 << 16) + b"\r\n"
            connection.send(b"%x\r\n" % len(part) + part + b"\r\n")
        eventually(lambda: len(staged(root)) == 50)
        assert len(os.listdir("/proc/self/fd")) < sockets + 20
        connection.send(b"5\r\n--b--\r\n0\r\n\r\n")
        job = connection.answer().json()["id"]
    assert server.finished(job)["report"]["failed"] == 50


def test_jobs_run_one_after_the_other_and_the_newest_is_listed_first(server: Server) -> None:
    with server.watch.held():
        first, second = add(server, new(3, 100)), add(server, new(3, 200))
        server.watch.wait_until_entered()
        states = [server.http.get(f"/v1/jobs/{job}").json()["state"] for job in (first, second)]
        assert states == ["running", "queued"]
    server.finished(second)
    assert [job["id"] for job in server.http.get("/v1/jobs").json()["jobs"]] == [second, first]
    assert server.http.get("/v1/galleries/plain").json()["images"] == 18


def test_a_job_that_waits_can_be_cancelled(server: Server, root: Path) -> None:
    with server.watch.held():
        first, second = add(server, new(3, 100)), add(server, new(3, 200))
        server.watch.wait_until_entered()
        assert server.http.delete(f"/v1/jobs/{second}").json()["state"] == "cancelled"
        assert len(staged(root)) == 3
    server.finished(first)
    assert server.http.get(f"/v1/jobs/{second}").json()["state"] == "cancelled"
    assert server.http.get("/v1/galleries/plain").json()["images"] == 15


def test_a_job_that_runs_can_be_cancelled_and_what_it_did_stays(server: Server, root: Path) -> None:
    with server.watch.held():
        job = add(server, new(40))
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
    server.finished(add(server, new(1, 500)))


def test_a_job_can_be_cancelled_while_its_images_come(server: Server, root: Path) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="images"; filename="%d.png"\r\n\r\n'
    with server.connect() as connection:
        kind = "multipart/form-data; boundary=b"
        connection.send(connection.head("POST", AT, Content_Type=kind, Content_Length="100000"))
        connection.send(head % 1 + png(1) + b"\r\n" + head % 2)
        eventually(lambda: len(staged(root)) == 2)
        (job,) = server.http.get("/v1/jobs").json()["jobs"]
        assert server.http.delete(f"/v1/jobs/{job['id']}").json()["state"] == "cancelled"
        connection.send(png(2) + b"\r\n" + head % 3)
        problem(connection.answer(), 409)
    assert staged(root) == []


def test_a_job_waits_for_another_writer(server: Server, root: Path) -> None:
    with GalleryWriter(root / "plain"):
        job = add(server, new(3))
        time.sleep(0.5)
        assert server.http.get(f"/v1/jobs/{job}").json()["state"] == "running"
    assert server.finished(job)["report"]["added"] == 3


def test_a_job_that_waits_for_another_writer_can_be_cancelled(server: Server, root: Path) -> None:
    with GalleryWriter(root / "plain"):
        job = add(server, new(3))
        eventually(lambda: server.http.get(f"/v1/jobs/{job}").json()["state"] == "running")
        server.http.delete(f"/v1/jobs/{job}")
        server.finished(job, state="cancelled")


def test_a_job_gives_up_on_a_writer_that_does_not_end(serve, root: Path) -> None:
    server = serve(job_seconds=0.2)
    with GalleryWriter(root / "plain"):
        told = server.finished(add(server, new(3)), state="failed")
    assert "another process" in told["error"]
    assert str(root) not in told["error"]


def test_a_job_whose_gallery_is_gone_fails(server: Server, root: Path) -> None:
    with server.watch.held():
        first = add(server, new(2))
        server.watch.wait_until_entered()
        second = server.http.post("/v1/galleries/other/images", files=new(2)).json()["id"]
        shutil.rmtree(root / "other")
    server.finished(first)
    assert "other" in server.finished(second, state="failed")["error"]
    assert server.http.get("/v1/galleries/plain").json()["images"] == 14


def test_too_many_jobs_are_not_taken(serve) -> None:
    server = serve(jobs_waiting=2)
    with server.watch.held():
        jobs = [add(server, new(1, seed)) for seed in (100, 200)]
        answer = server.http.post(AT, files=new(1, 300))
        problem(answer, 503)
        assert int(answer.headers["retry-after"]) >= 1
    for job in jobs:
        server.finished(job)
    server.finished(add(server, new(1, 300)))


def test_of_many_ended_jobs_the_latest_are_remembered(serve, root: Path) -> None:
    server = serve(jobs_kept=3)
    jobs = [add(server, new(1, seed)) for seed in range(100, 106)]
    server.finished(jobs[-1])
    eventually(lambda: len(server.http.get("/v1/jobs").json()["jobs"]) <= 3)
    assert server.http.get("/v1/jobs").json()["jobs"][0]["id"] == jobs[-1]
    problem(server.http.get(f"/v1/jobs/{jobs[0]}"), 404, "id")
    assert len(list((root / ".spade-index" / "jobs").iterdir())) <= 3


def test_queries_are_answered_while_a_job_runs(server: Server) -> None:
    job = add(server, new(100))
    answered = 0
    while server.http.get(f"/v1/jobs/{job}").json()["state"] in ("queued", "running"):
        assert server.query("plain", png(3))["neighbours"][0]["id"] == "003.png"
        answered += 1
    server.finished(job)
    assert answered >= 1
    assert server.query("plain", png(150))["neighbours"][0]["id"] == "new-150.png"


def test_after_a_stop_jobs_go_on(serve, root: Path) -> None:
    first = serve()
    with first.watch.held():
        running = add(first, new(30, 100))
        waiting = add(first, new(3, 300))
        first.watch.wait_until_entered()
        stopping = threading.Thread(target=first.service.jobs.stop)
        stopping.start()
        eventually(lambda: first.service.jobs._stopping)
    stopping.join()
    with Gallery(root / "plain") as gallery:
        assert 12 < len(gallery) < 42
        assert list(gallery.verify()) == []

    second = serve()
    told = second.finished(running)
    assert told["done"] == told["images"] == 30
    assert told["report"]["added"] + told["report"]["unchanged"] == 30
    second.finished(waiting)
    assert second.http.get("/v1/galleries/plain").json()["images"] == 45


def test_a_job_that_waits_for_a_writer_when_the_service_stops_goes_on(serve, root: Path) -> None:
    first = serve()
    with GalleryWriter(root / "plain"):
        job = add(first, new(3))
        eventually(lambda: first.http.get(f"/v1/jobs/{job}").json()["state"] == "running")
        first.service.jobs.stop()
    assert serve().finished(job)["report"]["added"] == 3


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"id": "x", "unknown": 1}', b"\xff", b'"a"', b"null"])
def test_what_is_left_of_a_job_that_cannot_be_read_costs_no_other(serve, root: Path, content: bytes) -> None:
    folder = root / ".spade-index" / "jobs" / "broken"
    folder.mkdir(parents=True)
    (folder / "job.json").write_bytes(content)
    (root / ".spade-index" / "jobs" / "empty" / "images").mkdir(parents=True)
    server = serve()
    assert server.http.get("/v1/jobs").json()["jobs"] == []
    server.finished(add(server, new(1)))
    assert (folder / "job.json").exists()


def test_what_a_kill_left_of_an_ended_job_is_tidied_up(serve, root: Path) -> None:
    first = serve()
    job = add(first, new(1))
    first.finished(job)
    left = root / ".spade-index" / "jobs" / job / "images"
    eventually(lambda: not left.exists())
    left.mkdir()
    (left / "0").write_bytes(png(1))
    assert serve().http.get(f"/v1/jobs/{job}").json()["state"] == "done"
    assert not left.exists()


def test_a_job_whose_images_had_not_all_come_is_failed_after_a_restart(serve, root: Path) -> None:
    first = serve()
    job = add(first, new(1))
    first.finished(job)
    path = root / ".spade-index" / "jobs" / job / "job.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"state": "receiving", "ended": None}))
    told = serve().http.get(f"/v1/jobs/{job}").json()
    assert told["state"] == "failed"
    assert "again" in told["error"]


def test_a_disk_that_is_full_while_images_come_is_said_so(server: Server, root: Path, monkeypatch) -> None:
    import errno
    import io

    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(server.service.jobs.files, "create_image", lambda job, number: Full())
    told = problem(server.http.post(AT, files=new(1)), 503)
    assert "full" in told["detail"]
    assert str(root) not in told["detail"]
