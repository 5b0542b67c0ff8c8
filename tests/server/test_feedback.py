"""Feedback over HTTP: "this one is fine" makes an image normal at the next query, and is undone again."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from spade_index.client import Client

from helpers.http_answers import problem
from helpers.serving import Server
from helpers.tiny import png
from helpers.uploads import odd, parts

pytestmark = pytest.mark.usefixtures("decoding_here")

PATH = "/v1/galleries/calibrated/feedback"
READER, WRITER, OTHER = "a-key-that-only-reads", "a-key-that-may-write", "another-key-that-may-write"


def say(server: Server, name: str = "odd.png", data: bytes | None = None, headers: dict | None = None, **parameters):
    """Send one image as a false alarm; return its job when it has ended."""
    files = parts((name, odd() if data is None else data))
    answer = server.http.post(PATH, files=files, params=parameters, headers=headers)
    assert answer.status_code == 202, answer.text
    return server.finished(answer.json()["id"])


def undo(server: Server, id: str):
    return server.http.delete(PATH, params={"id": id})


def test_an_image_is_normal_once_it_was_called_fine_and_anomalous_after_the_undo(server: Server) -> None:
    before = server.query("calibrated", odd())
    assert before["anomalous"]
    job = say(server, note="a shadow")
    assert (job["report"]["added"], job["verdict"], job["who"], job["note"]) == (
        1,
        "false_alarm",
        "anonymous",
        "a shadow",
    )
    (id,) = job["feedback_ids"]
    after = server.query("calibrated", odd())
    assert (after["anomalous"], after["neighbours"][0]["id"]) == (False, id)
    undone = undo(server, id)
    assert (undone.status_code, undone.json()["images"]) == (200, 12)
    again = server.query("calibrated", odd())
    assert (again["anomalous"], again["threshold"], again["scores"]) == (True, before["threshold"], before["scores"])
    problem(undo(server, id), 404)
    problem(undo(server, "003.png"), 404)
    (row,) = server.http.get(PATH).json()["feedback"]
    assert (row["id"], row["there"]) == (id, False)


def test_feedback_is_listed_filtered_and_exported(server: Server) -> None:
    for number, note in enumerate(("=1+1", "a shadow", "Dust")):
        say(server, f"part {number}.png", png(200 + number), note=note)
    found = server.http.get(PATH).json()
    assert (found["found"], [row["note"] for row in found["feedback"]]) == (3, ["Dust", "a shadow", "=1+1"])
    found = server.http.get(PATH, params={"contains": "part", "limit": 1}).json()
    assert (found["found"], len(found["feedback"])) == (3, 1)
    assert [row["note"] for row in server.http.get(PATH, params={"contains": "dUST"}).json()["feedback"]] == ["Dust"]
    table = server.http.get(PATH, params={"format": "csv"})
    assert table.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(table.text.splitlines()))
    assert [(row["note"], row["who"], row["there"]) for row in rows] == [
        ("Dust", "anonymous", "True"),
        ("a shadow", "anonymous", "True"),
        ("'=1+1", "anonymous", "True"),
    ]


def test_an_image_that_is_there_gets_no_note(server: Server) -> None:
    job = say(server, data=png(3))
    assert (job["report"]["added"], job["report"]["copies"], job["feedback_ids"]) == (0, 1, [])
    assert server.http.get(PATH).json() == {"feedback": [], "found": 0}


def test_ids_of_feedback_are_those_that_can_be_undone(server: Server) -> None:
    files = parts(("copy.png", png(3)), ("odd.png", odd()), ("broken.png", b"no image"))
    job = server.finished(server.http.post(PATH, files=files).json()["id"])
    (id,) = job["feedback_ids"]
    assert id.endswith("/odd.png")
    assert undo(server, id).status_code == 200
    assert server.http.get(f"/v1/jobs/{job['id']}").json()["feedback_ids"] == [id]


def test_the_holder_of_the_key_is_noted(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(keys=f"{READER} * read\n{WRITER} * write # line 3")
    files = parts(("odd.png", odd()))
    read, write = ({"Authorization": f"Bearer {key}"} for key in (READER, WRITER))
    problem(server.http.post(PATH, files=files, headers=read), 403)
    problem(server.http.delete(PATH, params={"id": "x"}, headers=read), 403)
    with Client(server.url, WRITER) as client:
        job = client.wait(client.say_false_alarm("calibrated", {"odd.png": odd()}, note="fine"))
        (row,) = client.feedback("calibrated")
        assert (row.id, row.who, row.note, row.there) == (job.feedback_ids[0], job.who, "fine", True)
        assert job.who.startswith("key ")
        assert WRITER not in job.who
        assert client.undo_feedback("calibrated", row.id).images == 12
    assert server.http.get(PATH, headers=read).json()["found"] == 1
    assert server.http.get(PATH, headers=write).json()["feedback"][0]["there"] is False


def test_what_is_not_printable_is_refused(server: Server) -> None:
    problem(server.http.post(PATH, params={"note": "a\nb"}, files=parts(("a.png", png(3)))), 422, "note")
    problem(server.http.post(PATH, params={"verdict": "fine"}, files=parts(("a.png", png(3)))), 422, "verdict")
    problem(server.http.post(PATH, content=png(3)), 415, "Content-Type")


def test_the_history_is_filtered(server: Server) -> None:
    say(server, "part 0.png", png(200), note="a shadow")
    (id,) = say(server, "part 1.png", png(201), note="dust")["feedback_ids"]
    say(server, "part 2.png", verdict="defect", kind="Scratch", box="4,4,16,16")
    undo(server, id)

    def found(**parameters: str) -> list[str]:
        answer = server.http.get(PATH, params={"format": "csv", **parameters})
        assert answer.status_code == 200, answer.text
        return [row["id"][-5] for row in csv.DictReader(answer.text.splitlines())]

    given = server.http.get(PATH).json()["feedback"][-1]["given"]
    assert found(verdict="false_alarm") == ["1", "0"]
    assert found(kind="Scratch") == found(contains="scratch") == found(verdict="defect") == ["2"]
    assert found(kind="scratch") == found(who="anonym") == found(verdict="missed") == []
    assert found(undone="true") == ["1"]
    assert found(undone="false", who="anonymous") == ["2", "0"]
    assert found(undone="false", verdict="false_alarm", limit="1") == ["0"]
    assert found(since=given, until="9999-12-31") == ["2", "1", "0"]
    assert found(since=given[:10]) == ["2", "1", "0"]
    assert found(until="2020-02-29T10:00Z") == found(since="9999-12-31") == []
    assert "0" in found(until=given.replace("+00:00", "Z"))
    with Client(server.url) as client:
        assert [row.note for row in client.feedback("calibrated", undone=True, since=given)] == ["dust"]


def test_what_is_no_filter_is_refused(server: Server) -> None:
    for name, text in (
        ("since", "yesterday"),
        ("since", ""),
        ("until", "2026-02-30"),
        ("until", "2026-11-29T24:00"),
        ("until", "2026-11-29T14:20:00+01:00"),
        ("undone", "yes"),
        ("verdict", "fine"),
    ):
        problem(server.http.get(PATH, params={name: text}), 422, name)
