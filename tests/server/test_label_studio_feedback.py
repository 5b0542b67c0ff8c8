"""Annotations of Label Studio as feedback: "Normal" corrects a false alarm, and whatever changes it takes it back."""

import shutil
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from spade_index.errors import GalleryLocked
from spade_index.server.adder import Adder
from spade_index.server.label_studio import annotations

from helpers.http_answers import problem
from helpers.label_studio import deleting, in_the_task, region, saying
from helpers.label_studio_files import LEGACY, task_files
from helpers.serving import Server
from helpers.tiny import png
from helpers.uploads import odd
from helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("decoding_here")
AT = "/label-studio/calibrated/webhook"
READER, WRITER = "a-key-that-only-reads", "a-key-that-may-write"
ODD = in_the_task(odd())


class Studio:
    """A service that hears of annotations; what was counted before a test is left out."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._before = {name: self._total(name) for name in ("false_alarm", "missed", "defect", "undone", "unchanged")}

    def _total(self, outcome: str) -> int:
        return int(self.server.metric(f'spade_index_label_studio_annotations_total{{outcome="{outcome}"}}'))

    def counted(self, outcome: str) -> int:
        """Return the number of annotations that have had an outcome."""
        return self._total(outcome) - self._before.get(outcome, 0)

    def looked_at(self, **outcomes: int) -> None:
        """Wait until so many annotations have had each outcome, and all jobs have ended."""
        eventually(lambda: all(self.counted(name) == count for name, count in outcomes.items()))
        eventually(lambda: all(job["state"] != "running" and job["state"] != "queued" for job in self.jobs()))

    def jobs(self) -> list[dict[str, Any]]:
        """Return all jobs."""
        return list(self.server.http.get("/v1/jobs").json()["jobs"])

    def send(self, event: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
        """Send an event; return what the answer says of its annotations."""
        answer = self.server.http.post(AT, json=event, **options)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["annotations"])

    def images(self) -> int:
        """Return the number of the gallery's images."""
        return int(self.server.http.get("/v1/galleries/calibrated").json()["images"])

    def is_anomalous(self) -> bool:
        """Return the verdict on the image that is unlike all others."""
        return bool(self.server.query("calibrated", odd())["anomalous"])


@pytest.fixture(scope="module")
def _server(_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(Path(shutil.copytree(_root, tmp_path_factory.mktemp("studio") / "root")))
    yield server
    server.stop()


@pytest.fixture
def studio(_server: Server) -> Iterator[Studio]:
    """A service in which nothing of other tests is left but jobs that have ended, and feedback that was undone."""
    studio = Studio(_server)
    assert studio.is_anomalous()
    yield studio
    for row in _server.http.get("/v1/galleries/calibrated/feedback").json()["feedback"]:
        if row["there"]:
            _server.http.delete("/v1/galleries/calibrated/feedback", params={"id": row["id"]}).raise_for_status()


def test_normal_corrects_a_false_alarm_and_deletion_takes_it_back(studio: Studio) -> None:
    before = studio.server.query("calibrated", odd())
    assert studio.send(saying("Normal", ODD, id=17)) == [{"id": 17, "outcome": "accepted"}]
    studio.looked_at(false_alarm=1)
    assert not studio.is_anomalous()
    row = studio.server.http.get("/v1/galleries/calibrated/feedback").json()["feedback"][0]
    assert row["id"].startswith("feedback/label-studio/17/")
    assert row["note"] == "Label Studio: project 1, task 1, annotation 17, by user 1"
    studio.send(deleting(1, 170))  # their numbers begin alike
    studio.looked_at(unchanged=2)
    assert not studio.is_anomalous()
    assert studio.send(deleting(17)) == [{"id": 17, "outcome": "taken_back"}]
    studio.looked_at(undone=1)
    again = studio.server.query("calibrated", odd())
    assert (again["anomalous"], again["scores"]) == (True, before["scores"])


def test_an_update_says_it_takes_it_back_and_says_it_again(studio: Studio) -> None:
    assert studio.send(saying("Anomalous", ODD)) == [{"id": 1, "outcome": "accepted"}]
    for times in (1, 2):
        assert studio.send(saying("Normal", ODD, action="updated")) == [{"id": 1, "outcome": "accepted"}]
        studio.looked_at(false_alarm=times)
        assert studio.images() == 13
        assert studio.send(saying("Anomalous", ODD, action="updated")) == [{"id": 1, "outcome": "accepted"}]
        studio.looked_at(undone=times)
        assert studio.images() == 12
    assert studio.counted("unchanged") == 1


def test_an_image_that_is_called_normal_is_not_added(studio: Studio) -> None:
    studio.send(saying("Normal", in_the_task(png(900))))
    studio.send(saying("Normal", ODD, id=2))
    studio.looked_at(unchanged=1, false_alarm=1)
    studio.send(saying("Normal", ODD, id=2, action="updated"))
    studio.send(saying("Normal", ODD, id=3))
    studio.looked_at(unchanged=3, false_alarm=1)
    assert studio.images() == 13


def known(studio: Studio) -> list[dict[str, Any]]:
    """Return the feedback that is in force, the newest first."""
    rows = studio.server.http.get("/v1/galleries/calibrated/feedback").json()["feedback"]
    return [row for row in rows if row["there"]]


def drawing(*regions: dict[str, Any], choice: str | None = "Anomalous", image: str = ODD, **options: Any) -> dict:
    event = saying(choice, image, **options)
    event["annotation"]["result"] += regions
    return event


def test_what_was_missed_becomes_known_and_is_taken_back(studio: Studio) -> None:
    new = in_the_task(png(901))
    studio.send(saying("Anomalous", new, id=31))
    studio.looked_at(missed=1)
    (row,) = known(studio)
    assert (row["verdict"], row["kind"]) == ("missed", "")
    assert row["id"].startswith("feedback/label-studio/31/")
    assert studio.images() == 12
    studio.send(saying("Anomalous", new, id=31, action="updated"))
    studio.looked_at(missed=1, unchanged=1)
    studio.send(deleting(31))
    studio.looked_at(undone=1)
    assert known(studio) == []


def test_regions_become_known_defects_of_the_kind_that_is_their_label(studio: Studio) -> None:
    corner = {"points": [[0, 0], [25, 0], [25, 50]], "polygonlabels": ["scratch"]}
    other = {"points": [[50, 50], [75, 50], [75, 100]], "polygonlabels": ["dent"]}
    third = {"points": [[50, 0], [75, 0], [75, 50]], "polygonlabels": ["scratch"]}
    regions = [region("polygonlabels", value) for value in (corner, other, third)]
    studio.send(drawing(*regions, choice=None, id=41))
    studio.looked_at(defect=1)
    (row,) = known(studio)
    assert (row["verdict"], row["kinds"]) == ("defect", ["scratch", "dent"])
    (job,) = [job for job in studio.jobs() if row["id"] in job["feedback_ids"]]
    assert job["kinds"] == ["scratch", "dent", "scratch"]
    found = studio.server.query("calibrated", odd())["regions"][0]["known_defect"]
    assert (found["kind"] in row["kinds"], found["seen"]) == (True, 1)
    for one in regions:
        one["value"]["polygonlabels"] = ["dent"]
    studio.send(drawing(*regions, id=41, action="updated"))
    studio.looked_at(defect=2)
    assert [row["kind"] for row in known(studio)] == ["dent"]
    studio.send(drawing(*regions, choice="Normal", id=41, action="updated"))
    studio.looked_at(false_alarm=1)
    assert [row["verdict"] for row in known(studio)] == ["false_alarm"]
    assert not studio.is_anomalous()


def test_a_region_that_cannot_be_read_is_refused(studio: Studio) -> None:
    event = drawing(region("brushlabels", {"rle": [1, 2], "brushlabels": ["scratch"]}))
    problem(studio.server.http.post(AT, json=event), 422, "body")


@pytest.mark.parametrize("answer", [None, "Blue", "normal"])
def test_what_is_neither_is_ignored(studio: Studio, answer: str | None) -> None:
    before = len(studio.jobs())
    assert studio.send(saying(answer, ODD)) == [{"id": 1, "outcome": "ignored"}]
    assert studio.send(saying(answer, ODD, action="updated")) == [{"id": 1, "outcome": "taken_back"}]
    studio.looked_at(unchanged=1)
    assert len(studio.jobs()) == before


def test_an_annotation_that_was_skipped_says_nothing(studio: Studio) -> None:
    event = saying("Normal", ODD)
    event["annotation"]["was_cancelled"] = True
    assert studio.send(event) == [{"id": 1, "outcome": "ignored"}]


def test_many_annotations_come_in_one_event(studio: Studio) -> None:
    one, other = saying("Normal", ODD, id=1), saying("Anomalous", in_the_task(png(902)), id=2)
    many = {"action": "ANNOTATIONS_CREATED", "project": one["project"]}
    many |= {name: [one[name], other[name]] for name in ("annotation", "task")}
    assert [told["outcome"] for told in studio.send(many)] == ["accepted", "accepted"]
    studio.looked_at(false_alarm=1, missed=1)


def test_a_deletion_that_comes_while_the_image_is_added_is_the_last_word(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, go_on, run = threading.Event(), threading.Event(), Adder.run

    def held(*arguments: Any) -> Any:
        running.set()
        go_on.wait(30)
        return run(*arguments)

    monkeypatch.setattr(Adder, "run", held)
    studio.send(saying("Normal", ODD))
    assert running.wait(30)
    studio.send(deleting(1))
    go_on.set()
    eventually(lambda: studio.counted("undone") + studio.counted("unchanged") == 1)
    assert studio.images() == 12


def test_an_annotation_waits_for_another_writer(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotations, "PAUSE", 0.05)
    studio.send(saying("Normal", ODD))
    studio.looked_at(false_alarm=1)
    tried, undo = threading.Event(), annotations.undone

    def undone(*arguments: Any) -> Any:
        if not tried.is_set():
            tried.set()
            raise GalleryLocked("another process writes")
        return undo(*arguments)

    monkeypatch.setattr(annotations, "undone", undone)
    studio.send(deleting(1))
    studio.looked_at(undone=1)
    assert tried.is_set()


def test_an_image_that_cannot_be_had_is_logged_and_the_next_is_looked_at(
    studio: Studio, caplog: pytest.LogCaptureFixture
) -> None:
    studio.send(saying("Normal", "/data/upload/1/a.png", id=5))
    studio.send(saying("Normal", in_the_task(b"no image"), id=6))
    studio.send(saying("Normal", ODD, id=7))
    studio.looked_at(failed=2, false_alarm=1)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "annotation 5 of Label Studio: the image is in Label Studio: give its address" in told[0]
    assert "annotation 6" in told[1]
    assert "decoded" in told[1]


def test_the_image_comes_from_label_studio_after_the_answer(serve: Callable[..., Server]) -> None:
    with task_files() as files:
        files.files["/data/upload/1/odd.png"] = odd()
        studio = Studio(serve(label_studio=files.url, label_studio_token=LEGACY))
        studio.send(saying("Normal", "/data/upload/1/odd.png"))
        studio.looked_at(false_alarm=1)
        (row,) = studio.server.http.get("/v1/galleries/calibrated/feedback").json()["feedback"]
        assert row["id"].endswith("/odd.png")


def test_a_webhook_needs_a_key_that_may_write_also_as_the_password_of_basic(serve: Callable[..., Server]) -> None:
    server = serve(keys=f"{READER} * read; {WRITER} calibrated write")
    post = partial(server.http.post, json=saying("Blue", ODD))
    problem(post(AT), 401)
    problem(post(AT, auth=("spade_index", READER)), 403)
    problem(post(AT.replace("calibrated", "plain"), auth=("spade_index", WRITER)), 403)
    for given in ({"headers": {"X-Api-Key": WRITER}}, {"auth": ("spade_index", WRITER)}, {"auth": ("", WRITER)}):
        assert post(AT, **given).json() == {"annotations": [{"id": 1, "outcome": "ignored"}]}
    for unreadable in (WRITER.encode(), f"{WRITER}:".encode(), b"\xff:\xff"):
        problem(post(AT, headers={"Authorization": b"Basic " + b64encode(unreadable)}), 401)
    for unreadable in ("Basic %%%", "Basic"):
        problem(post(AT, headers={"Authorization": unreadable}), 401)
