"""`query` and `evaluate` with other settings than those that a gallery is calibrated for."""

import json
import re
import shlex
from pathlib import Path

import pytest

from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.method.at_once import calibrate_at_once
from spade_index.method.commands import calibrate_command
from spade_index.presets import PAPER_SEARCH
from spade_index.settings import SearchSettings

from helpers.cli_runs import objects, run

OTHER = ["--smoothing", 2, "--subtract-neighbours", 0.5]


@pytest.fixture
def calibrated(gallery: Path) -> Path:
    """A gallery that is calibrated for its default settings."""
    run("calibrate", gallery, "--false-alarms", 0.1)
    return gallery


def test_verdicts_of_other_settings_are_those_of_the_command_that_is_named(calibrated: Path, dataset: Path) -> None:
    with Gallery(calibrated) as opened:
        before = opened.catalog.calibrations()
    command = ["query", calibrated, dataset / "test" / "hole", *OTHER, "--json"]
    result = run(*command)
    answers = objects(result)
    assert all(answer["anomalous"] and answer["p_value"] <= 0.1 and answer["regions"] for answer in answers)
    with Gallery(calibrated) as opened:
        assert opened.catalog.calibrations() == before
    (line,) = result.stderr.splitlines()
    assert "12 of its images were scored for this run alone" in line
    (named,) = re.findall("`(.*)`", line)
    run(*shlex.split(named)[1:])
    again = run(*command)
    assert again.stderr == ""
    assert objects(again) == answers


def test_an_evaluation_with_other_settings_has_verdicts(calibrated: Path, dataset: Path, tmp_path: Path) -> None:
    result = run("evaluate", dataset, "--gallery", calibrated, *OTHER, "--json", tmp_path / "figures.json")
    assert "for this run alone" in result.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["hit_rate"], figures["false_alarms"]) == (1, 0.1)


def test_what_would_take_long_is_left_and_named(calibrated: Path, dataset: Path, monkeypatch) -> None:
    monkeypatch.setattr("spade_index.cli.detecting.calibrate_at_once", lambda *arguments, **options: None)
    result = run("query", calibrated, dataset / "test" / "hole", "--smoothing", 2, "--json")
    assert {answer["p_value"] for answer in objects(result)} == {None}
    assert f"`spade-index calibrate {calibrated} --false-alarms 0.1 --smoothing 2.0`" in result.stderr


def test_only_a_calibrated_gallery_is_calibrated_and_only_in_time(calibrated: Path, built: Path) -> None:
    other = SearchSettings(smoothing=2.0)
    with Gallery(built) as never, Gallery(calibrated) as opened:
        assert calibrate_at_once(never, other) is None
        assert calibrate_at_once(opened, SearchSettings()) is None  # its own settings
        assert calibrate_at_once(opened, other, seconds=0.0) is None
        found = calibrate_at_once(opened, other)
    assert found is not None
    assert found.scores is not None
    assert (len(found.scores), found.false_alarms) == (12, 0.1)


@pytest.mark.parametrize(
    ("search", "options"),
    [
        (SearchSettings(), ""),
        (PAPER_SEARCH, "--preset paper"),
        (SearchSettings(grid=4, compared_levels=(0, 2)), "--compared-levels 0,2 --grid 4"),
        (SearchSettings(relative_score=True), "--relative-score"),
        (SearchSettings(level_weights=(1.0, 0.5, 0.0, 0.0)), "--level-weights 1.0,0.5,0.0,0.0"),
        (SearchSettings(image_score="map", maps="always"), ""),  # scores of all kinds are kept
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_command_that_calibrates_makes_the_same_settings(
    gallery: Path, search: SearchSettings, options: str
) -> None:
    with Gallery(gallery) as opened:
        command = calibrate_command(opened, search)
    assert command.removeprefix(f"spade-index calibrate {gallery}").strip() == options
    run(*shlex.split(command)[1:])
    with Gallery(gallery) as opened:
        (kept,) = opened.catalog.calibrations()
        assert kept["search"] == search.calibration_key()


def test_the_absolute_score_may_be_asked_for(gallery: Path) -> None:
    """Where a gallery was tuned to the relative one."""
    with GalleryWriter(gallery) as writer:
        writer.set_tuned({"search": {"relative_score": True}, "images": 12, "snapshot": writer.gallery.snapshot})
        assert calibrate_command(writer.gallery, SearchSettings()).endswith(f"{gallery} --absolute-score")
    run("calibrate", gallery, "--absolute-score", "--false-alarms", 0.1)
    with Gallery(gallery) as opened:
        (kept,) = opened.catalog.calibrations()
    assert kept["search"] == SearchSettings().calibration_key()
