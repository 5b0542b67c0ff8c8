"""Jobs that add images: what a restart of the service does with them."""

import json
import threading
from pathlib import Path

import pytest

from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter

from helpers.adding import add, new_images
from helpers.tiny import png
from helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("decoding_here")


def test_jobs_continue_after_a_restart(serve, root: Path) -> None:
    first = serve()
    with first.watch.held():
        running = add(first, new_images(30, 100))
        waiting = add(first, new_images(3, 300))
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


def test_a_job_that_waited_for_a_writer_continues_after_a_restart(serve, root: Path) -> None:
    first = serve()
    with GalleryWriter(root / "plain"):
        job = add(first, new_images(3))
        eventually(lambda: first.http.get(f"/v1/jobs/{job}").json()["state"] == "running")
        first.service.jobs.stop()
    assert serve().finished(job)["report"]["added"] == 3


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"id": "x", "unknown": 1}', b"\xff", b'"a"', b"null"])
def test_an_unreadable_job_record_does_not_affect_other_jobs(serve, root: Path, content: bytes) -> None:
    folder = root / ".spade-index" / "jobs" / "broken"
    folder.mkdir(parents=True)
    (folder / "job.json").write_bytes(content)
    (root / ".spade-index" / "jobs" / "empty" / "images").mkdir(parents=True)
    server = serve()
    assert server.http.get("/v1/jobs").json()["jobs"] == []
    server.finished(add(server, new_images(1)))
    assert (folder / "job.json").exists()


def test_leftover_images_of_an_ended_job_are_deleted_at_startup(serve, root: Path) -> None:
    first = serve()
    job = add(first, new_images(1))
    first.finished(job)
    left = root / ".spade-index" / "jobs" / job / "images"
    eventually(lambda: not left.exists())
    left.mkdir()
    (left / "0").write_bytes(png(1))
    assert serve().http.get(f"/v1/jobs/{job}").json()["state"] == "done"
    assert not left.exists()


def test_an_incomplete_upload_is_a_failed_job_after_a_restart(serve, root: Path) -> None:
    first = serve()
    job = add(first, new_images(1))
    first.finished(job)
    path = root / ".spade-index" / "jobs" / job / "job.json"
    eventually(lambda: json.loads(path.read_text())["state"] == "done")  # the record is written after clients see it
    path.write_text(json.dumps(json.loads(path.read_text()) | {"state": "receiving", "ended": None}))
    told = serve().http.get(f"/v1/jobs/{job}").json()
    assert told["state"] == "failed"
    assert "again" in told["error"]
