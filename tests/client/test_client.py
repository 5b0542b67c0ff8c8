"""Tests of the Python client, against services that answer as in use."""

import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, asdict
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spade_index.client import Client
from spade_index.client import client as module
from spade_index.errors import InputError, JobFailed, ServiceError, SpadeIndexError, Unavailable
from spade_index.server.job import Job

from helpers.serving import Server
from helpers.tiny import png, random_image
from helpers.waiting import eventually

KEY = "a-key-that-may-read"


@pytest.fixture
def client(shared_server: Server) -> Iterator[Client]:
    """A client of a service that no test changes."""
    with Client(shared_server.url) as client:
        yield client


@pytest.fixture
def writer(server: Server) -> Iterator[Client]:
    """A client of a service whose galleries a test may change."""
    with Client(server.url) as client:
        yield client


def test_importing_it_loads_neither_torch_nor_the_service() -> None:
    code = "import sys, spade_index.client; print({'torch', 'fastapi', 'faiss', 'h5py'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_tells_what_is_served(client: Client) -> None:
    assert client.ready()
    assert client.service().galleries == 4
    assert client.service().limits["images"] == 32
    assert [(one.name, one.images, one.calibrated) for one in client.galleries()] == [
        ("calibrated", 12, True),
        ("cropped", 12, False),
        ("other", 12, False),
        ("plain", 12, False),
    ]
    gallery = client.gallery("calibrated")
    assert (gallery.images, gallery.input_size, gallery.may_write) == (12, (32, 32), True)
    assert set(gallery.thresholds) == {"pooled", "map", "both"}


def test_an_image_is_the_same_in_whatever_form(client: Client, shared_server: Server, tmp_path: Path) -> None:
    (tmp_path / "suspect.png").write_bytes(png(50))
    image = random_image(50)
    forms = [tmp_path / "suspect.png", str(tmp_path / "suspect.png"), png(50), image, np.asarray(image)]
    (expected,) = shared_server.http.post("/v1/galleries/plain/query", content=png(50)).json()["results"]
    for form in forms:
        (result,) = client.query("plain", form)  # by itself, for equal bits
        assert (result.score, result.scores) == (expected["score"], expected["scores"])
        assert [asdict(one) for one in result.neighbours] == expected["neighbours"]
        assert json.loads(json.dumps(result.evidence and asdict(result.evidence))) == expected["evidence"]
        assert result.image == ("suspect.png" if isinstance(form, str | Path) else None)


def test_grey_pictures_and_turned_ones_arrive_as_they_are(client: Client) -> None:
    grey = random_image(51).convert("L")
    (one,), (other,) = client.query("plain", grey), client.query("plain", np.asarray(grey))
    assert one.score == other.score
    turned = random_image(51)
    turned.getexif()[0x0112] = 6
    (as_seen,), (as_sent,) = (
        client.query("plain", turned.transpose(Image.Transpose.ROTATE_270)),
        client.query("plain", turned),
    )
    assert (as_sent.score, as_sent.width, as_sent.height) == (as_seen.score, 36, 40)


def test_results_are_in_the_order_of_the_images_with_their_names(client: Client) -> None:
    found = client.query("plain", {"a": png(1), "b": random_image(2), "c": np.asarray(random_image(3))})
    assert [(one.image, one.neighbours[0].id) for one in found] == [
        ("a", "001.png"),
        ("b", "002.png"),
        ("c", "003.png"),
    ]
    with pytest.raises(FrozenInstanceError):
        found[0].score = 0.0


def test_shows_the_evidence(client: Client, shared_server: Server) -> None:
    (result,) = client.query("plain", [png(60)], maps="always")
    assert result.kept is not None
    score_map = result.score_map()
    assert (score_map.dtype, score_map.shape) == (np.float32, (32, 32))
    assert score_map.max() == np.float32(result.kept.max) == np.float32(result.scores["map"])
    assert [(one.mode, one.size) for one in (result.overlay(0.7), result.heat(), result.grey())] == [
        ("RGB", (40, 36)),
        ("RGBA", (40, 36)),
        ("L", (32, 32)),
    ]
    assert result.overlay(0.0).tobytes() == random_image(60).tobytes()
    assert result.evidence is not None
    match = result.match(*result.evidence.pixel)
    told = shared_server.http.get(
        f"/v1/results/{result.kept.id}/match", params=dict(zip("xy", match.pixel, strict=True))
    )
    assert json.loads(json.dumps(asdict(match))).items() <= told.json().items()
    assert match.neighbour_size == (40, 36)
    assert result.thumbnail().size == result.thumbnail(match.neighbour).size == (40, 36)


def test_the_verdict_is_by_the_threshold_and_maps_are_made_as_asked(client: Client) -> None:
    (result,) = client.query("plain", png(60), maps="never", threshold=0)
    assert (result.kind, result.threshold, result.anomalous, result.kept, result.evidence) == (
        "pooled",
        0,
        True,
        None,
        None,
    )
    with pytest.raises(InputError, match="maps='always'"):
        result.overlay()
    assert result.thumbnail().size == (40, 36)
    assert client.query("plain", png(60), maps="never", threshold=1e9)[0].anomalous is False
    assert client.query("plain", png(60))[0].anomalous is None


def test_goes_through_all_pages_of_images(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 5)
    found = list(client.images("plain"))
    assert [one.id for one in found] == [f"{number:03d}.png" for number in range(12)]
    assert (found[0].width, found[0].height) == (40, 36)


def test_adds_images_and_follows_the_job(writer: Client, tmp_path: Path) -> None:
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


def test_removes_and_takes_back(writer: Client) -> None:
    before = writer.gallery("plain").snapshot
    change = writer.remove("plain", ["003.png", "004.png"])
    assert (change.changed, change.images, change.snapshot) == (2, 10, before + 1)
    assert [one.id for one in writer.images("plain", removed=True)] == ["003.png", "004.png"]
    assert writer.query("plain", png(3))[0].neighbours[0].id != "003.png"
    (as_before,) = writer.query("plain", png(3), snapshot=before)
    assert (as_before.neighbours[0].id, as_before.snapshot) == ("003.png", before)
    assert writer.restore("plain", ["003.png"]).images == 11
    assert writer.reload("plain").images == 11


def test_a_job_that_does_not_end_well_is_an_error(server: Server, writer: Client) -> None:
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


def test_resumes_what_was_interrupted(serve: Callable[..., Server], root: Path) -> None:
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


def test_errors_say_what_the_service_says(client: Client) -> None:
    with pytest.raises(ServiceError) as caught:
        client.query("plain", [png(1), b"no image"])
    error = caught.value
    assert (error.status, list(error.fields), error.retry_after) == (422, ["images[1]"], None)
    assert error.detail == error.fields["images[1]"] == "images[1]: cannot be decoded (not an image)"
    assert error.request_id is not None
    assert error.request_id in str(error)
    assert "/v1/galleries/plain/query" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.status, again.fields) == (str(error), 422, error.fields)


@pytest.mark.parametrize("name", ["nope", "..", ".", "a/b", "../plain", "a?b#c", "ü", "%2e%2e"])
def test_a_gallery_that_is_not_there_is_not_found_whatever_its_name(client: Client, name: str) -> None:
    with pytest.raises(ServiceError) as caught:
        client.gallery(name)
    assert caught.value.status == 404


@pytest.mark.parametrize(
    "call", [lambda c: c.job("x"), lambda c: c.match("x", 1, 1), lambda c: c.thumbnail("plain", "x")]
)
def test_what_is_not_there_is_not_found(client: Client, call: Callable[[Client], object]) -> None:
    with pytest.raises(ServiceError) as caught:
        call(client)
    assert caught.value.status == 404


@pytest.mark.parametrize(
    ("image", "told"),
    [
        ([], "at least one"),
        ("/nowhere/x.png", "/nowhere/x.png: cannot be read"),
        (np.zeros((4, 4)), r"uint8 \[H, W\]"),
        ([png(1), np.zeros((4, 4, 7), np.uint8)], r"images\[1\]: .* \(4, 4, 7\)"),
        (Image.new("F", (4, 4)), "convert it to RGB"),
        ([3], r"images\[0\]: not an image"),
    ],
)
def test_what_is_no_image_is_not_sent(client: Client, image: object, told: str) -> None:
    with pytest.raises(InputError, match=told):
        client.query("plain", image)  # type: ignore[arg-type]


def test_what_has_no_name_is_not_added(client: Client) -> None:
    with pytest.raises(InputError, match=r"images\[1\] has no name"):
        client.add("plain", [__file__, png(1)])


def test_a_body_that_is_too_large_is_refused(serve: Callable[..., Server]) -> None:
    with Client(serve(body_bytes=100_000).url) as client, pytest.raises(ServiceError) as caught:
        client.query("plain", bytes(20_000_000))
    assert caught.value.status == 413


def test_keys_are_sent(serve: Callable[..., Server]) -> None:
    server = serve(keys=f"{KEY} plain read")
    with Client(server.url) as client:
        assert client.ready()
        with pytest.raises(ServiceError) as caught:
            client.galleries()
        assert caught.value.status == 401
    with Client(server.url, api_key=KEY) as client:
        assert [one.name for one in client.galleries()] == ["plain"]
        with pytest.raises(ServiceError) as caught:
            client.remove("plain", ["000.png"])
        assert caught.value.status == 403


def test_what_a_busy_service_refuses_is_tried_again(serve: Callable[..., Server]) -> None:
    server = serve(queue_images=1, request_images=1)
    scores = []

    def ask() -> None:
        with Client(server.url) as client:
            scores.append(client.query("plain", png(5))[0].score)

    with server.watch.held():
        asking = [threading.Thread(target=ask) for _ in range(2)]
        asking[0].start()
        server.watch.wait_until_entered()
        with Client(server.url, tries=1) as client, pytest.raises(ServiceError) as caught:
            client.query("plain", png(5))
        assert caught.value.status == 503
        assert caught.value.retry_after is not None
        assert caught.value.retry_after >= 1
        asking[1].start()
        eventually(lambda: server.metric('spade_index_refused_total{reason="queue"}') == 2)
    for thread in asking:
        thread.join()
    assert scores[0] == scores[1]


def test_a_service_that_is_not_there_or_silent_is_unavailable(server: Server) -> None:
    port = server.port
    silence = pytest.raises(Unavailable, match="no answer to POST v1/galleries/plain/query in time")
    with server.watch.held(), Client(server.url, timeout=0.2) as client, silence:
        client.query("plain", png(1))
    server.stop()
    with Client(f"http://127.0.0.1:{port}") as client:
        assert not client.ready()
        with pytest.raises(Unavailable, match="cannot be reached"):
            client.galleries()
    for url in ("nonsense", "ftp://127.0.0.1", "http://127.0.0.1:port"):
        with pytest.raises(InputError, match="not the address"):
            Client(url)


@pytest.mark.parametrize(
    ("status", "told"), [(502, "Bad Gateway"), (301, "the service is at https://elsewhere/"), (200, "is not JSON")]
)
def test_what_a_proxy_says_is_told_in_one_line(status: int, told: str) -> None:
    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Location", "https://elsewhere/")
            self.end_headers()
            self.wfile.write(b"<html>\n<p>sorry")

        def log_message(self, *arguments: object) -> None:
            pass

    proxy = HTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        with Client(f"http://127.0.0.1:{proxy.server_port}") as client, pytest.raises(SpadeIndexError) as caught:
            client.galleries()
    finally:
        proxy.shutdown()
        proxy.server_close()
    assert isinstance(caught.value, ServiceError)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
