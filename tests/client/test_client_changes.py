"""The Python client: jobs, removal and restoring."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from spade_index.client import Client
from spade_index.errors import JobFailed, ServiceError, Unavailable
from spade_index.server.job import Job

from helpers.serving import Server
from helpers.tiny import png, random_image

KEY = "a-key-that-may-read"


def test_add_and_wait(writer: Client, tmp_path: Path) -> None:
    (tmp_path / "new.png").write_bytes(png(70))
    seen = []
    job = writer.wait(writer.add("plain", [tmp_path / "new.png"], prefix="line 1/"), progress=seen.append, timeout=30)
    assert (job.state, job.images, job.done, job.over) == ("done", 1, 1, True)
    assert job.report is not None
    assert job.report["added"] == 1
    assert seen[-1] == job
    assert job in writer.jobs()
    made = {"ü & ?.png": np.asarray(random_image(71)), "new.png": random_image(72)}
    writer.wait(writer.add("plain", made, prefix="line 1/", replace=True).id)
    assert [one.id for one in writer.images("plain")][12:] == ["line 1/ü & ?.png", "line 1/new.png"]
    assert writer.query("plain", png(72))[0].neighbours[0].distance == 0


def test_remove_and_restore(writer: Client) -> None:
    before = writer.gallery("plain").snapshot
    change = writer.remove("plain", ["003.png", "004.png"])
    assert (change.changed, change.images, change.snapshot) == (2, 10, before + 1)
    assert [one.id for one in writer.images("plain", removed=True)] == ["003.png", "004.png"]
    assert writer.query("plain", png(3))[0].neighbours[0].id != "003.png"
    (as_before,) = writer.query("plain", png(3), snapshot=before)
    assert (as_before.neighbours[0].id, as_before.snapshot) == ("003.png", before)
    assert writer.restore("plain", ["003.png"]).images == 11
    assert writer.reload("plain").images == 11


def test_wait_raises_for_a_job_that_is_not_done(server: Server, writer: Client) -> None:
    with server.watch.held():
        job = writer.add("plain", {f"{seed}.png": png(seed) for seed in range(80, 90)})
        with pytest.raises(Unavailable, match=r"running|queued"):
            writer.wait(job, timeout=0.2)
        assert writer.cancel(job).state in ("running", "cancelled")
    with pytest.raises(JobFailed, match=f"job {job.id} of plain: cancelled"):
        writer.wait(job)
    with pytest.raises(ServiceError, match="only an interrupted one") as caught:
        writer.resume(job)
    assert caught.value.status == 409


def test_an_interrupted_job_is_resumed(serve: Callable[..., Server], root: Path) -> None:
    job = Job("0123456789abcdef", "plain", False, "", state="running", names=["a.png", "b.png"])
    folder = root / ".spade-index" / "jobs" / job.id
    (folder / "images").mkdir(parents=True)
    for number, seed in enumerate((90, 91)):
        (folder / "images" / str(number)).write_bytes(png(seed))
    (folder / "job.json").write_text(json.dumps(asdict(job)))
    with Client(serve().url) as client:
        with pytest.raises(JobFailed, match="interrupted: the service ended while it ran"):
            client.wait(job.id)
        assert client.wait(client.resume(job.id)).report["added"] == 2  # type: ignore[index]


def test_the_audit_names_what_to_remove(writer: Client) -> None:
    found = writer.audit("calibrated", 3)
    assert (found.ranked, found.images, len(found.odd)) == (12, 12, 3)
    writer.remove("calibrated", [found.odd[0].id])
    assert writer.audit("calibrated").images == 11
