"""`spade-index feedback`: a false alarm is corrected, listed, and undone."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from helpers.cli_runs import BACKBONE, objects, refused, run, write_normal


@pytest.fixture
def alarm(dataset: Path) -> Path:
    """An image that the gallery calls anomalous."""
    return dataset / "test" / "hole" / "000.png"


def corrected(gallery: Path, image: Path, *options: object) -> str:
    """Say that an image is fine; return its id."""
    told = run("feedback", gallery, image, "--false-alarm", *options, "--workers", 1).stdout
    (line,) = [line for line in told.splitlines() if line.startswith("noted as a false alarm: ")]
    return line.removeprefix("noted as a false alarm: ").split(" (")[0]


def verdict(gallery: Path, image: Path) -> tuple[bool, float, float]:
    """Return whether an image is anomalous, its score and its p-value."""
    (found,) = objects(run("query", gallery, image, "--json", "--false-alarms", 0.2, "--workers", 1))
    assert found["anomalous"] is not None
    return bool(found["anomalous"]), float(found["score"]), float(found["p_value"])


def listed(gallery: Path) -> list[dict[str, object]]:
    return objects(run("feedback", gallery, "--list", "--json"))


def test_a_false_alarm_is_normal_until_it_is_undone(gallery: Path, alarm: Path) -> None:
    run("calibrate", gallery)
    before = verdict(gallery, alarm)
    assert before[0]
    id = corrected(gallery, alarm, "--note", "a shadow", "--by", "Ada")
    assert not verdict(gallery, alarm)[0]
    (said,) = listed(gallery)
    assert said.pop("given")
    noted = {"id": id, "verdict": "false_alarm", "who": "Ada", "note": "a shadow"}
    assert said == {**noted, "kind": None, "kinds": [], "there": True}
    undone = run("feedback", gallery, "--undo", id).stdout
    assert undone.startswith(f"{id} removed again")
    assert undone.endswith("; 12 images at snapshot 3\n")
    assert verdict(gallery, alarm) == before
    assert "the threshold was chosen on" not in run("query", gallery, alarm, "--workers", 1).stderr
    assert [said["there"] for said in listed(gallery)] == [False]
    assert "removed\ta shadow" in run("feedback", gallery, "--list").stdout


def test_the_list_is_filtered(gallery: Path) -> None:
    with closing(sqlite3.connect(gallery / "catalog.sqlite")) as db, db:
        for id, who, day in (("000.png", "Ada", 1), ("gone.png", "Ada", 2), ("001.png", "Bob", 3)):
            row = ("missed" if who == "Bob" else "false_alarm", who, "", id, f"2026-11-0{day}T10:00:00+00:00")
            db.execute("INSERT INTO feedback (verdict, who, note, id, given) VALUES (?, ?, ?, ?, ?)", row)
    (gallery / "catalog.check").unlink()

    def found(*options: object) -> list[object]:
        return [said["id"] for said in objects(run("feedback", gallery, "--list", "--json", *options))]

    assert found("--since", "2026-11-02") == ["gone.png", "001.png"]
    assert found("--until", "2026-11-02") == found("--who", "Ada") == ["000.png", "gone.png"]
    assert found("--who", "Ada", "--undone") == ["gone.png"]
    assert found("--not-undone", "--verdict", "missed") == found("--contains", "BOB") == ["001.png"]
    assert found("--kind", "scratch") == []
    told = run("feedback", gallery, "--list", "--since", "yesterday", status=2).stderr
    assert "'yesterday' is not a date or time: write 2026-11-29" in told
    run("feedback", gallery, "--undo", "000.png", "--who", "Ada", status=2)


def test_what_was_undone_can_be_said_again(gallery: Path, alarm: Path) -> None:
    first = corrected(gallery, alarm)
    run("feedback", gallery, "--undo", first)
    second = corrected(gallery, alarm)
    assert [(said["id"], said["there"]) for said in listed(gallery)] == [(first, False), (second, True)]
    run("compact", gallery)
    assert [(said["id"], said["there"]) for said in listed(gallery)] == [(first, False), (second, True)]
    assert run("verify", gallery).exit_code == 0


def test_an_image_that_is_there_is_named(gallery: Path, dataset: Path) -> None:
    told = run("feedback", gallery, dataset / "train" / "good" / "004.png", "--false-alarm", "--workers", 1)
    assert "the same file as 004.png" in told.stderr
    assert "1 skipped as copies" in told.stdout
    assert listed(gallery) == []


def test_images_of_one_name_are_told_apart(gallery: Path, dataset: Path) -> None:
    images = [dataset / "test" / kind / "000.png" for kind in ("hole", "good")]
    ids = [corrected(gallery, image) for image in images]
    assert [said["id"] for said in listed(gallery)] == ids
    assert len(set(ids)) == 2


def test_a_picture_of_tiles_is_one_entry(dataset: Path, alarm: Path, tmp_path: Path) -> None:
    gallery = tmp_path / "tiled"
    run("build", write_normal(tmp_path / "good", 2), gallery, *BACKBONE, "--tile", 64, "--no-tune")
    before = run("list", gallery, "--tiles").stdout
    id = corrected(gallery, alarm)
    assert [(said["id"], said["there"]) for said in listed(gallery)] == [(id, True)]
    run("feedback", gallery, "--undo", id)
    assert run("list", gallery, "--tiles").stdout == before
    assert [said["there"] for said in listed(gallery)] == [False]


def test_only_what_feedback_added_is_undone(gallery: Path) -> None:
    assert "no feedback about an image '004.png'" in refused("feedback", gallery, "--undo", "004.png")
    assert "004.png" in run("list", gallery).stdout


def test_a_gallery_of_an_earlier_version(gallery: Path, alarm: Path) -> None:
    with closing(sqlite3.connect(gallery / "catalog.sqlite")) as db, db:
        db.execute("DROP TABLE feedback")
    (gallery / "catalog.check").unlink()
    assert listed(gallery) == []
    id = corrected(gallery, alarm)
    assert [said["id"] for said in listed(gallery)] == [id]


def test_entries_are_suspects(gallery: Path, alarm: Path) -> None:
    corrected(gallery, alarm)
    with closing(sqlite3.connect(gallery / "catalog.sqlite")) as db, db:
        db.execute("UPDATE feedback SET note = x'00'")
    (gallery / "catalog.check").unlink()
    assert "unexpected values" in refused("feedback", gallery, "--list")


@pytest.mark.parametrize("options", [[], ["--list", "--undo", "x"], ["--false-alarm"], ["--list", "x.png"]])
def test_one_thing_at_a_time(gallery: Path, options: list[str]) -> None:
    images = [option for option in options if not option.startswith("-") and option != "x"]
    run("feedback", gallery, *images, *(option for option in options if option not in images), status=2)


def test_a_note_is_limited(gallery: Path, alarm: Path) -> None:
    told = refused("feedback", gallery, alarm, "--false-alarm", "--note", "x" * 1001)
    assert told == "--note is longer than 1,000 characters"


def test_a_preview_tells_which_verdicts_would_change_and_changes_nothing(gallery: Path, alarm: Path) -> None:
    run("calibrate", gallery, "--false-alarms", 0.2)
    files = {path: path.read_bytes() for path in gallery.rglob("*") if path.is_file()}
    beside = set(gallery.parent.iterdir())
    told = run(
        "feedback", gallery, alarm, "--false-alarm", "--preview", alarm, "--preview", alarm.parents[1], "--workers", 1
    ).stdout
    assert f"{alarm}: anomalous now, normal afterwards" in told
    assert "nothing was changed" in told
    assert {path: path.read_bytes() for path in gallery.rglob("*") if path.is_file()} == files
    assert set(gallery.parent.iterdir()) == beside
    assert listed(gallery) == []
    assert "belongs to --false-alarm" in run("feedback", gallery, "--list", "--preview", alarm, status=2).stderr
