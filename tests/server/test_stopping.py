"""SIGTERM ends the service within the documented time, whatever runs."""

import json
import shutil
import signal
import threading
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from helpers.cli_runs import BACKBONE, normal, run, write_normal
from helpers.documents import ROOT
from helpers.limit_table import LIMITS
from helpers.service_process import Process
from helpers.uploads import encoded, parts
from helpers.waiting import PATIENCE, eventually

AT = "/v1/galleries/tiles"
INDEXING = """
import sys, faiss, numpy, spade_index.gallery.write.writer as writer
def build_index(self):
    descriptors = numpy.random.default_rng(0).normal(size=(50_000, 128)).astype(numpy.float32)
    print("indexing", file=sys.stderr, flush=True)
    while True:
        faiss.Kmeans(128, 1024, niter=20).train(descriptors)
writer.GalleryWriter.index_is_stale = lambda self: True
writer.GalleryWriter.build_index = build_index
import spade_index.server.jobs as jobs
jobs.STOP_SECONDS = %s
"""
STUCK = """
import threading, spade_index.server.galleries as galleries, spade_index.server.stopping as stopping
def settings_of(*arguments):
    print("stuck", file=sys.stderr, flush=True)
    threading.Event().wait()
galleries.Galleries.settings_of = settings_of
stopping.END_SECONDS = %s
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopping")
    run("build", write_normal(folder / "images", 4), folder / "root" / "tiles", *BACKBONE, "--no-tune")
    return folder / "root"


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "root"))


def indexing(process: Process) -> str:
    """Add an image, and wait until the index is being built, which never ends; return the job."""
    job = process.http.post(f"{AT}/images", files=parts(("a.png", encoded(normal(99))))).json()["id"]
    eventually(lambda: "indexing" in process.log_text())
    return str(job)


def stop(process: Process, by: signal.Signals = signal.SIGTERM) -> None:
    """Send a signal, and wait for the end. Raises TimeoutExpired: what runs would take for ever."""
    process.process.send_signal(by)
    process.process.wait(2 * PATIENCE)


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_stop_within_an_index_is_in_time_and_the_job_goes_on(root: Path, cancelled: bool) -> None:
    with Process(root, before=INDEXING % "0.5") as process:
        job = indexing(process)
        if cancelled:
            assert process.http.delete(f"/v1/jobs/{job}").json()["state"] == "running"
        stop(process)
        assert "left in the middle" in process.log_text()
    record = json.loads((root / ".spade-index" / "jobs" / job / "job.json").read_text())
    assert record["state"] == ("cancelled" if cancelled else "queued")
    with Process(root) as again:
        if cancelled:
            assert again.http.get(f"/v1/jobs/{job}").json()["state"] == "cancelled"
        else:
            again.finished(job)
        assert again.http.get(AT).json()["images"] == 5


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_a_request_that_never_ends_does_not_keep_a_stop_from_ending(root: Path, by: signal.Signals) -> None:
    """Python waits for its thread, unless the signal itself ends the process."""
    end_seconds = 2.0 if by == signal.SIGINT else 600.0
    with Process(root, "--timeout", "1", before=INDEXING % "0.5" + STUCK % end_seconds) as process:
        indexing(process)

        def ask() -> None:
            with suppress(httpx.TransportError):
                httpx.post(f"http://127.0.0.1:{process.port}{AT}/query", content=encoded(normal(1)), timeout=60)

        asking = threading.Thread(target=ask)
        asking.start()
        eventually(lambda: "stuck" in process.log_text())
        stop(process, by)
        assert ("it ends now" in process.log_text()) == (by == signal.SIGINT)
        asking.join()
    with Process(root) as again:
        assert again.http.get("/v2/health/ready").status_code == 200


def test_a_closed_terminal_ends_the_service_as_a_stop_does(root: Path) -> None:
    hanging_up = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # also where nohup started the tests
    with Process(root, before=hanging_up) as process:
        assert process.http.get("/v2/health/live").status_code == 200  # it listens before it sees to signals
        stop(process, signal.SIGHUP)
        assert process.process.returncode == -signal.SIGHUP
        assert "Application shutdown complete" in process.log_text()


def test_limit_end_seconds() -> None:
    """`test_a_request_that_never_ends...` walks it; this is what systemd is told."""
    seconds = float(LIMITS["end_seconds"].default.removesuffix(" s"))
    unit = (ROOT / "docs" / "deploy.md").read_text()
    told = int(unit.partition("TimeoutStopSec=")[2].split()[0])
    assert told >= float(LIMITS["request_seconds"].default.removesuffix(" s")) + seconds
    assert seconds >= 1 + 2 * float(LIMITS["stop_seconds"].default.removesuffix(" s"))
