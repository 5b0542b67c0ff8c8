"""`spade-index feedback --defect KIND` and `--missed`: later queries say which known defect a region is like."""

import errno
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import ImageDraw

from spade_index.errors import GalleryDamaged
from spade_index.gallery import Gallery
from spade_index.gallery.catalog.transaction import Transaction

from helpers.cli_runs import SIZE, normal, objects, refused, run

KINDS = ("hole", "scratch")


def with_defect(to: Path, kind: str, seed: int) -> Path:
    """Write an image of the object with a defect; return its path."""
    image = normal(seed)
    draw = ImageDraw.Draw(image)
    at = 10 + 12 * (seed % 3)
    if kind == "hole":
        draw.rectangle((at, 20, at + 20, 40), fill="white")
    else:
        for step in range(0, 24, 4):
            draw.line((at, 20 + step, at + 30, 24 + step), fill=(255, 0, 0) if step % 8 else (0, 0, 60), width=2)
    path = to / f"{kind}-{seed}.png"
    image.save(path)
    return path


def say(gallery: Path, image: Path, *options: object) -> str:
    """Say what is wrong with an image; return the id of the feedback."""
    told = run("feedback", gallery, image, *options, "--workers", 1).stdout
    (line,) = [line for line in told.splitlines() if line.startswith("noted as a known defect")]
    return line.split(": ", 1)[1].split(" (")[0]


def worst_region(gallery: Path, image: Path) -> dict[str, Any]:
    (found,) = objects(run("query", gallery, image, "--json", "--false-alarms", 0.2, "--workers", 1))
    region: dict[str, Any] = found["regions"][0]
    return region


def pictures_of_all(gallery: Gallery) -> list[bytes | None]:
    return [
        gallery.catalog.defect_picture(one.defect) for one in gallery.catalog.known_defects(gallery.catalog.channels)
    ]


def listed(gallery: Path) -> list[dict[str, Any]]:
    return objects(run("feedback", gallery, "--list", "--json"))


def test_a_region_is_named_by_its_kind_until_that_is_undone(gallery: Path, tmp_path: Path) -> None:
    run("calibrate", gallery)
    image = with_defect(tmp_path, "hole", 301)
    assert worst_region(gallery, image)["known_defect"] is None
    score = worst_region(gallery, image)["score"]
    ids = {kind: say(gallery, with_defect(tmp_path, kind, 300), "--defect", kind, "--by", "Ada") for kind in KINDS}
    for kind in KINDS:
        known = worst_region(gallery, with_defect(tmp_path, kind, 304))["known_defect"]
        assert (known["kind"], known["id"], known["seen"]) == (kind, ids[kind], 1)
        assert 0 <= known["distance"] <= 2
        assert known["alike"] == (known["distance"] <= known["limit"])
    same = worst_region(gallery, tmp_path / "hole-300.png")["known_defect"]
    assert (same["kind"], same["alike"]) == ("hole", True)
    assert same["distance"] < 0.01
    assert worst_region(gallery, image)["score"] == score  # known defects are no normal images
    out = tmp_path / "out"
    line = run("query", gallery, tmp_path / "hole-300.png", "--false-alarms", 0.2, "--workers", 1, "--out", out).stdout
    page = (out / "report.html").read_text()
    assert "): like known defect &#34;hole&#34;, seen in 1 image</span>" in page
    assert '" alt="Known defect" loading="lazy">' in page
    assert 'like known defect "hole", seen in 1 image' in line
    table = run("query", gallery, tmp_path / "hole-300.png", "--csv", "-", "--false-alarms", 0.2, "--workers", 1).stdout
    assert table.splitlines()[1].split(",")[-3] == "hole"
    assert run("list", gallery).stdout.count(".png") == 12
    run("compact", gallery)
    assert run("verify", gallery).exit_code == 0
    run("feedback", gallery, "--undo", ids["hole"])
    assert worst_region(gallery, image)["known_defect"]["kind"] == "scratch"
    assert [(row["kind"], row["who"], row["there"]) for row in listed(gallery)] == [
        ("hole", "Ada", False),
        ("scratch", "Ada", True),
    ]
    assert "was undone already" in refused("feedback", gallery, "--undo", ids["hole"])


def test_a_missed_defect_lies_where_a_person_says_or_where_the_score_is_highest(gallery: Path, tmp_path: Path) -> None:
    for seed in (401, 402):
        normal(seed).save(tmp_path / f"{seed}.png")
    told = run("feedback", gallery, tmp_path / "401.png", "--missed", "--workers", 1).stdout
    assert "the place of its highest score" in told
    say(gallery, tmp_path / "402.png", "--missed", "--kind", "dent", "--box", 10, 12, 30, 20)
    with Gallery(gallery) as opened:
        first, second = opened.catalog.known_defects(opened.catalog.channels)
        picture = opened.catalog.defect_picture(second.defect)
    assert (first.kind, first.place.found, first.place.size) == ("", "highest", SIZE)
    assert (second.kind, second.place.found, second.place.box) == ("dent", "box", (10, 12, 30, 20))
    assert picture is not None
    assert picture.startswith(b"\xff\xd8")
    outside = run("feedback", gallery, tmp_path / "402.png", "--missed", "--box", 80, 0, 30, 20, status=1)
    assert "is not in an image of 90x70 pixels" in outside.stderr


def test_each_box_has_a_kind_of_its_own(gallery: Path, tmp_path: Path) -> None:
    image, boxes = with_defect(tmp_path, "hole", 300), ("--box", 10, 12, 30, 20, "--box", 50, 12, 20, 20)
    told = run("feedback", gallery, image, "--defect", "a", "--defect", "b", "--defect", "c", *boxes, status=2).stderr
    assert "one for each --box" in told
    told = run("feedback", gallery, image, "--defect", "hole", "--defect", "dent", *boxes, "--workers", 1).stdout
    assert told.startswith("noted as known defects of the kinds hole, dent: feedback/")
    with Gallery(gallery) as opened:
        known = opened.catalog.known_defects(opened.catalog.channels)
    assert [(one.kind, one.place.box) for one in known] == [("hole", (10, 12, 30, 20)), ("dent", (50, 12, 20, 20))]
    for kind in ("hole", "dent"):
        (said,) = objects(run("feedback", gallery, "--list", "--json", "--kind", kind))
        assert (said["kind"], said["kinds"]) == ("hole, dent", ["hole", "dent"])


def test_an_image_is_known_once_and_no_normal_one(gallery: Path, dataset: Path, tmp_path: Path) -> None:
    image = with_defect(tmp_path, "hole", 300)
    say(gallery, image, "--defect", "hole")
    for other, reason in (
        (image, "is a known defect already"),
        (dataset / "train/good/004.png", "is the normal image"),
    ):
        told = run("feedback", gallery, other, "--defect", "hole", "--workers", 1, status=1).stderr
        assert reason in told
    assert len(listed(gallery)) == 1


def test_a_commit_that_fails_leaves_nothing(gallery: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Transaction, *values: object) -> None:
        note(self, *values)
        raise OSError(errno.ENOSPC, "No space left on device")

    note: Callable[..., None] = Transaction.note_feedback
    image = with_defect(tmp_path, "hole", 300)
    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "note_feedback", fails)
        run("feedback", gallery, image, "--defect", "hole", "--workers", 1, status=1)
    assert listed(gallery) == []
    assert run("verify", gallery).exit_code == 0
    say(gallery, image, "--defect", "hole")


def test_known_defects_are_suspects(gallery: Path, tmp_path: Path) -> None:
    say(gallery, with_defect(tmp_path, "hole", 300), "--defect", "hole")
    for change in ("features = x'007c'", "place = '{}'", "score = 'x'", "picture = zeroblob(1000000)"):
        with closing(sqlite3.connect(gallery / "catalog.sqlite")) as db, db:
            (before,) = db.execute("SELECT features, place, score, picture FROM known_defects LIMIT 1").fetchall()
            db.execute(f"UPDATE known_defects SET {change}")
        with Gallery(gallery) as opened, pytest.raises(GalleryDamaged, match="catalog"):
            pictures_of_all(opened)
        run("verify", gallery, status=1)
        with closing(sqlite3.connect(gallery / "catalog.sqlite")) as db, db:
            db.execute("UPDATE known_defects SET features = ?, place = ?, score = ?, picture = ?", before)


def test_a_gallery_of_an_earlier_version(gallery: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(gallery / "catalog.sqlite")) as db, db:
        db.execute("DROP TABLE known_defects")
    (gallery / "catalog.check").unlink()
    image = with_defect(tmp_path, "hole", 300)
    assert listed(gallery) == []
    id = say(gallery, image, "--defect", "hole")
    assert [row["id"] for row in listed(gallery)] == [id]


@pytest.mark.parametrize(
    "options", [["--missed", "--defect", "x"], ["--defect", "x"], ["--list", "--defect", "--kind", "x"]]
)
def test_what_belongs_together(gallery: Path, options: list[str]) -> None:
    run("feedback", gallery, *options, status=2)
