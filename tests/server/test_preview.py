"""What feedback would change is told before it is committed: the images judged last are judged again on a copy."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from spade_index.client import Client
from spade_index.server.job_files import FOLDER

from helpers.http_answers import problem
from helpers.limit_table import status
from helpers.serving import Server
from helpers.tiny import png
from helpers.uploads import odd, parts

pytestmark = pytest.mark.usefixtures("decoding_here")

PATH = "/v1/galleries/calibrated/feedback"


def preview(server: Server, data: bytes | None = None) -> dict:
    """Return what a preview of a false alarm tells."""
    answer = server.http.post(PATH, params={"preview": "true"}, files=parts(("odd.png", data or odd())))
    assert answer.status_code == 202, answer.text
    return server.finished(answer.json()["id"])["previewed"]


def test_a_preview_tells_what_the_feedback_then_does(server: Server, root: Path) -> None:
    named = {"a good one.png": png(3), "odd.png": odd()}
    for name, data in named.items():
        server.query("calibrated", data, name=name)
    before = server.query("calibrated", odd(), name="the odd one.png")  # again: it is kept once
    server.query("other", odd())
    with Client(server.url) as client:
        job = client.wait(client.preview_false_alarm("calibrated", {"odd.png": odd()}))
        assert (job.preview, job.feedback_ids, client.feedback("calibrated")) == (True, (), [])
        found = job.previewed
        assert found is not None
        assert (found.kept, found.replayed) == (2, 2)
        (change,) = found.changes
        assert (change.image, change.given) == ("the odd one.png", True)
        assert (change.before.anomalous, change.after.anomalous) == (True, False)
        assert change.before.score == pytest.approx(before["score"], rel=1e-5)
        assert server.query("calibrated", odd())["snapshot"] == before["snapshot"]
        client.wait(client.say_false_alarm("calibrated", {"odd.png": odd()}))
    after = server.query("calibrated", odd())
    assert (after["anomalous"], after["threshold"]) == (False, pytest.approx(change.after.threshold))
    assert after["score"] == pytest.approx(change.after.score, rel=1e-5)
    assert {entry.name for entry in (root / FOLDER).iterdir()} == {"jobs"}


def test_an_image_judged_by_a_threshold_of_its_own_is_judged_by_it_again(server: Server) -> None:
    server.query("calibrated", png(150), threshold=0)
    server.query("calibrated", png(150), snapshot=1)  # says nothing of the last snapshot
    found = preview(server)
    assert (found["replayed"], found["changes"]) == (1, [])


def test_a_picture_of_what_changes_is_shown_to_who_may_read(serve: Callable[..., Server]) -> None:
    reader, writer = ({"X-Api-Key": f"a-key-that-may-{what}"} for what in ("read", "write"))
    server = serve(keys="a-key-that-may-read plain read; a-key-that-may-write calibrated write")
    assert server.http.post("/v1/galleries/calibrated/query", content=odd(), headers=writer).status_code == 200
    server.http.headers.update(writer)
    (change,) = preview(server)["changes"]
    picture = server.http.get(change["picture"])
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/jpeg")
    problem(server.http.get(change["picture"], headers=reader), 403)
    problem(server.http.get(change["picture"].replace("calibrated/judged/", "calibrated/judged/x")), 404, "id")


def test_images_that_cannot_be_judged_again_are_left_out(server: Server) -> None:
    server.query("calibrated", odd())
    (kept,) = server.service.recent.of("calibrated")
    object.__setattr__(kept.upload, "data", b"no image")  # as for a gallery whose images are read otherwise by now
    found = preview(server)
    assert (found["kept"], found["replayed"], found["changes"]) == (1, 0, [])


def test_known_defects_have_no_preview(server: Server) -> None:
    for options in ({"verdict": "missed"}, {"verdict": "defect", "kind": "scratch"}):
        answer = server.http.post(PATH, params={"preview": "true", **options}, files=parts(("odd.png", odd())))
        problem(answer, 422, "preview")


def test_a_preview_does_not_outlive_the_service(serve: Callable[..., Server], root: Path) -> None:
    server = serve()
    job = server.finished(server.http.post(PATH, params={"preview": "true"}, files=parts(("o", odd()))).json()["id"])
    server.stop()
    record = root / FOLDER / "jobs" / job["id"] / "job.json"
    assert json.loads(record.read_text())["previewed"] == job["previewed"]
    record.write_text(json.dumps(json.loads(record.read_text()) | {"state": "queued", "previewed": None}))
    assert "ask for it again" in serve().finished(job["id"], state="failed")["error"]


def test_limit_replay_images(serve: Callable[..., Server]) -> None:
    server = serve(replay_images=2)
    for seed in (150, 151, 152):
        server.query("calibrated", png(seed), name=f"{seed}.png")
    assert [kept.upload.name for kept in server.service.recent.of("calibrated")] == ["152.png", "151.png"]
    assert preview(server)["kept"] == 2


def test_limit_replay_bytes(serve: Callable[..., Server]) -> None:
    server = serve(replay_bytes=len(odd()) + len(png(150)) - 1)
    server.query("calibrated", odd())
    (change,) = preview(server)["changes"]
    server.query("other", png(150))
    assert preview(server)["kept"] == 0
    problem(server.http.get(change["picture"]), status("replay_bytes"), "id")


def test_limit_replay_seconds(serve: Callable[..., Server]) -> None:
    server = serve(replay_seconds=1e-9)
    for seed in (150, 151, 152):
        server.query("calibrated", png(seed))
    found = preview(server)
    assert (found["kept"], found["replayed"]) == (3, 1)
