"""Jobs that add images: uploads, names and reports."""

from pathlib import Path

import pytest

from spade_index.gallery import Gallery

from helpers.adding import IMAGES, add, new_images, staged
from helpers.http_answers import problem
from helpers.serving import Server
from helpers.tiny import png
from helpers.uploads import parts
from helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("decoding_here")


def test_a_job_reports_its_state_from_start_to_end(server: Server, root: Path) -> None:
    with server.watch.held():
        job = add(server, new_images(20))
        first = server.http.get(f"/v1/jobs/{job}").json()
        assert first["state"] in ("queued", "running")
        assert (first["images"], first["report"], first["ended"]) == (20, None, None)
        server.watch.wait_until_entered()
        assert server.http.get(f"/v1/jobs/{job}").json()["state"] == "running"
        assert len(staged(root)) == 20
    told = server.finished(job)
    assert (told["images"], told["done"]) == (20, 20)
    assert told["report"] == {
        "added": 20,
        "replaced": 0,
        "unchanged": 0,
        "copies": 0,
        "changed": 0,
        "failed": 0,
        "removed": 0,
    }
    assert told["created"] <= told["started"] <= told["ended"]
    assert (told["notices"], told["error"], told["gallery"]) == ([], None, "plain")
    eventually(lambda: staged(root) == [])
    with Gallery(root / "plain") as gallery:
        assert len(gallery) == 32
        assert list(gallery.verify()) == []


def test_progress_can_be_polled(server: Server) -> None:
    seen = set()
    job = add(server, new_images(60))
    eventually(lambda: seen.add(server.http.get(f"/v1/jobs/{job}").json()["done"]) or 60 in seen)
    assert seen == {done for done in seen if 0 <= done <= 60}


def test_undecodable_images_are_reported_and_skipped(server: Server) -> None:
    files = parts(("good.png", png(100)), ("bad.png", b"no image"), ("cut.jpg", png(101)[:50]))
    told = server.finished(add(server, files))
    assert told["report"]["added"] == 1
    assert told["report"]["failed"] == 2
    assert len(told["notices"]) == 2
    assert any("bad.png" in notice for notice in told["notices"])
    assert told["done"] == told["images"] == 3


def test_file_names_become_ids_with_a_prefix(server: Server) -> None:
    server.finished(add(server, parts(("a.png", png(100)), ("sub/b.png", png(101))), prefix="line-2/"))
    ids = [image["id"] for image in server.http.get(IMAGES, params={"after": 12}).json()["images"]]
    assert ids == ["line-2/a.png", "line-2/sub/b.png"]
    problem(server.http.post(IMAGES, files=new_images(1), params={"prefix": "a\nb"}), 422, "prefix")
    problem(server.http.post(IMAGES, files=new_images(1), params={"prefix": "a" * 1000}), 422, "prefix")


def test_file_names_cannot_traverse_directories(server: Server, root: Path) -> None:
    names = ["../../../evil.png", "/etc/evil.png", "..", "job.json", "a" * 1000]
    server.finished(add(server, parts(*[(name, png(100 + n)) for n, name in enumerate(names)])))
    assert not list(root.parent.glob("**/*evil*"))
    ids = [image["id"] for image in server.http.get(IMAGES, params={"after": 12}).json()["images"]]
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


def test_file_names_are_required_and_unique(server: Server, root: Path) -> None:
    problem(server.http.post(IMAGES, files=parts(("a.png", png(1)), ("a.png", png(2)))), 422, "images[1]")
    body = b'--b\r\nContent-Disposition: form-data; name="images"; filename=""\r\n\r\nx\r\n--b--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    problem(server.http.post(IMAGES, content=body, headers=headers), 422, "images[0]")
    assert server.http.get("/v1/jobs").json()["jobs"] == []
    assert staged(root) == []


def test_an_aborted_upload_leaves_no_files(server: Server, root: Path) -> None:
    with server.connect() as connection:
        head = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
        kind = "multipart/form-data; boundary=b"
        connection.send(connection.head("POST", IMAGES, Content_Type=kind, Content_Length="100000") + head + png(1))
        eventually(lambda: staged(root))
        (job,) = server.http.get("/v1/jobs").json()["jobs"]
        assert job["state"] == "receiving"
    eventually(lambda: server.http.get("/v1/jobs").json()["jobs"] == [])
    assert staged(root) == []
    assert list((root / ".spade-index" / "jobs").iterdir()) == []


def test_uploads_are_streamed_to_disk(server: Server, root: Path) -> None:
    """Neither memory nor open files grow with what a form holds."""
    import os

    sockets = len(os.listdir("/proc/self/fd"))
    with server.connect() as connection:
        kind = "multipart/form-data; boundary=b"
        connection.send(connection.head("POST", IMAGES, Content_Type=kind, Transfer_Encoding="chunked"))
        for number in range(50):
            head = f'--b\r\nContent-Disposition: form-data; name="images"; filename="{number}.png"\r\n\r\n'
            part = head.encode() + os.urandom(1 << 16) + b"\r\n"
            connection.send(b"%x\r\n" % len(part) + part + b"\r\n")
        eventually(lambda: len(staged(root)) == 50)
        assert len(os.listdir("/proc/self/fd")) < sockets + 20
        connection.send(b"5\r\n--b--\r\n0\r\n\r\n")
        job = connection.answer().json()["id"]
    assert server.finished(job)["report"]["failed"] == 50


def test_a_full_disk_during_an_upload_is_reported(server: Server, root: Path, monkeypatch) -> None:
    import errno
    import io

    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(server.service.jobs.files, "create_image", lambda job, number: Full())
    told = problem(server.http.post(IMAGES, files=new_images(1)), 503)
    assert "full" in told["detail"]
    assert str(root) not in told["detail"]
