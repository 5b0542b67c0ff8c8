"""Records of jobs are checked when they are read back: what is not one is named and left alone."""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from spade_index.gallery import Gallery
from spade_index.server.job import Job
from spade_index.server.job_files import JobFiles

from helpers.adding import add, new_images
from helpers.http_answers import problem
from helpers.serving import Server
from helpers.tiny import files_of, png

pytestmark = pytest.mark.usefixtures("decoding_here")
ID = "0123456789abcdef"


@pytest.fixture
def jobs(root: Path) -> Path:
    folder = root / ".spade-index" / "jobs"
    folder.mkdir(parents=True)
    return folder


def write(jobs: Path, folder: str = ID, **changes: Any) -> Path:
    """Write a record that is right but for these fields, and an image that was sent with it."""
    job = Job(ID, "plain", False, "", names=["a.png"], state="queued")
    (jobs / folder / "images").mkdir(parents=True)
    (jobs / folder / "images" / "0").write_bytes(png(70))
    path = jobs / folder / "job.json"
    path.write_text(json.dumps(asdict(job) | changes))
    return path


WRONG: dict[str, list[Any]] = {
    "id": ["../../plain", "/etc", "", ".", ID.upper(), "0" * 16, 5, None, [ID]],
    "gallery": ["", "..", "../plain", "/plain", "a/b", "a\nb", "x" * 300, 5, None],
    "replace": ["yes", 1, None],
    "again": ["yes", 1, None],
    "verdict": ["fine", "", 1],
    "boxes": [None, [[1, 2, 3]], [[1, 2, 3, "4"]], [[-1, 2, 3, 4]], [[1, 2, 3, 1e9]], [[1, 2, 3, 4]] * 11],
    "kinds": [None, "hole", ["hole"], [1], ["a\nb"], ["k" * 101]],
    "kind": ["hole", "a\nb", "k" * 101, 1],
    "who": [5, None, "a\nb", "x" * 201],
    "note": [5, None, "a\nb", "x" * 1001],
    "prefix": [5, None, "a\nb", "x" * 257],
    "action": ["delete", None],
    "state": ["paused", "", 1, None],
    "names": [None, "abc", [5], [None], [""], ["a", "a"], ["a\u0000"], ["x" * 1025], {"a": 1}],
    "done": [-1, "0", 1.5, None, 10**30],
    "report": [5, {"added": "1"}, {"added": -1}, {"a" * 50: 1}, []],
    "notices": [None, "abc", [5], ["x"] * 101],
    "snapshot": [-1, "1", 10**30],
    "error": [5, ["x"]],
    "created": [None, 5, "yesterday", "", "2026-01-01", "9" * 5000],
    "started": [5, "now"],
    "ended": [5, "soon"],
    "unknown": [1],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values])
def test_a_record_with_a_wrong_field_is_named_and_left_alone(
    jobs: Path, field: str, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(jobs, **{field: value})
    before = files_of(jobs)
    with caplog.at_level(logging.WARNING):
        assert list(JobFiles(jobs.parents[1]).load()) == []
    assert str(path) in caplog.text
    assert field in caplog.text or field == "id"
    assert files_of(jobs) == before


def test_a_record_that_is_right_is_read(jobs: Path) -> None:
    write(jobs)
    (job,) = JobFiles(jobs.parents[1]).load()
    assert (job.id, job.names, job.state) == (ID, ["a.png"], "queued")


def test_a_record_of_an_earlier_version_is_read(jobs: Path) -> None:
    path = write(jobs)
    record = json.loads(path.read_text())
    for name in ("again", "verdict", "who", "note", "kind", "boxes"):
        del record[name]
    path.write_text(json.dumps(record))
    (job,) = JobFiles(jobs.parents[1]).load()
    assert not job.again


def test_boxes_of_an_earlier_version_are_all_of_one_kind(jobs: Path) -> None:
    path = write(jobs, verdict="defect", kind="hole", boxes=[[1, 2, 3, 4], [5, 6, 7, 8]])
    record = json.loads(path.read_text())
    del record["kinds"]
    path.write_text(json.dumps(record))
    (job,) = JobFiles(jobs.parents[1]).load()
    assert job.kinds == ["hole", "hole"]


def test_boxes_have_kinds_of_their_own(jobs: Path) -> None:
    path = write(jobs, verdict="defect", boxes=[[1, 2, 3, 4], [5, 6, 7, 8]], kinds=["hole", "dent"])
    (job,) = JobFiles(jobs.parents[1]).load()
    assert (job.kind, job.kinds) == ("", ["hole", "dent"])
    path.write_text(path.read_text().replace('"dent"', '""'))
    assert list(JobFiles(jobs.parents[1]).load()) == []


@pytest.mark.parametrize("ruin", ["link", "pipe", "folder", "large", "deep"])
def test_a_record_that_is_no_plain_file_is_left_alone(jobs: Path, tmp_path: Path, ruin: str) -> None:
    path = write(jobs)
    if ruin == "large":
        path.write_text(path.read_text() + " " * (33 << 20))
    elif ruin == "deep":
        path.write_text("[" * 100_000)
    else:
        path.rename(tmp_path / "elsewhere")
    if ruin == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif ruin == "pipe":
        import os

        os.mkfifo(path)
    elif ruin == "folder":
        path.mkdir()
    assert list(JobFiles(jobs.parents[1]).load()) == []
    assert path.parent.exists()


def test_the_service_starts_beside_bad_records_and_deletes_nothing_outside(
    jobs: Path, root: Path, serve: Callable[..., Server]
) -> None:
    write(jobs, "another-name", id=str(root / "plain"), state="done")
    write(jobs, "0" * 16, id="../../plain", state="done")
    write(jobs, "1" * 16, id="1" * 16, created=5)
    write(jobs)
    (jobs / "lost+found").mkdir()
    (jobs / "notes.txt").write_text("mine")
    server = serve()
    assert server.finished(ID)["report"]["added"] == 1
    assert [job["id"] for job in server.http.get("/v1/jobs").json()["jobs"]] == [ID]
    with Gallery(root / "plain") as gallery:
        assert len(gallery) == 13
    assert (jobs / "notes.txt").exists()
    assert (jobs / "lost+found").exists()


def link(path: Path, target: Path) -> None:
    """Put a link to `target`, which a folder or file is moved to, in its place."""
    path.rename(target)
    path.symlink_to(target)


@pytest.mark.parametrize("part", [ID, f"{ID}/images", f"{ID}/images/0"])
def test_links_within_a_job_are_not_followed(
    jobs: Path, root: Path, tmp_path: Path, part: str, serve: Callable[..., Server]
) -> None:
    write(jobs)
    link(jobs / part, tmp_path / "elsewhere")
    server = serve()
    listed = server.http.get("/v1/jobs").json()["jobs"]
    if listed:
        assert server.finished(ID)["report"]["failed"] == 1
    with Gallery(root / "plain") as gallery:
        assert len(gallery) == 12
    assert (tmp_path / "elsewhere").exists()


@pytest.fixture
def linked(root: Path, tmp_path: Path) -> Iterator[Path]:
    target = tmp_path / "elsewhere"
    (target / "jobs").mkdir(parents=True)
    (root / ".spade-index").symlink_to(target)
    yield target
    assert files_of(target) == set()


def test_nothing_is_written_through_a_linked_folder(linked: Path, serve: Callable[..., Server]) -> None:
    server = serve()
    answer = server.http.post("/v1/galleries/plain/images", files=new_images(1))
    assert "link" in problem(answer, 503)["detail"]


def test_images_that_are_gone_fail_their_job_and_no_other(jobs: Path, serve: Callable[..., Server]) -> None:
    write(jobs)
    (jobs / ID / "images" / "0").unlink()
    server = serve()
    assert "send the images again" in server.finished(ID, state="failed")["error"]
    server.finished(add(server, new_images(1)))


@pytest.mark.parametrize(
    "more", ['"replace": true', '"id": "0123456789abcdef"', '"gallery": "other"', '"done": NaN', '"error": "\\ud800"']
)
def test_a_record_that_can_be_read_in_two_ways_is_left_alone(jobs: Path, more: str) -> None:
    path = write(jobs)
    path.write_text(path.read_text().removesuffix("}") + f", {more}}}")
    before = files_of(jobs)
    assert list(JobFiles(jobs.parents[1]).load()) == []
    assert files_of(jobs) == before
