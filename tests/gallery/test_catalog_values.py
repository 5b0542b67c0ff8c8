"""Values read back from a catalog and a calibration are checked: types, ranges and names of settings."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from spade_index.cli import main
from spade_index.errors import GalleryDamaged, StorageError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images.interest import RegionOfInterest
from spade_index.method import calibration
from spade_index.method.tuned import tuned_search

from helpers.damage import SEARCH, change_catalog
from helpers.decoding_here import HERE
from helpers.tiny import image_file, png


@pytest.mark.parametrize(
    "change",
    [
        *({"file": name} for name in ("/etc/passwd", "../x.h5", "", 5, None)),
        *({"digest": value} for value in (5, None)),
        *({"thresholds": value} for value in ([], {"pooled": "1"}, {"pooled": True}, {"pooled": None}, {"other": 1.0})),
        *({"quantile": value} for value in (0, 1, -1, 2, "0.9", None, True)),
        *({"false_alarms": value} for value in (0, 1, "0.1", None)),
        *({"snapshot": value} for value in (-1, "1", 1.5, None, True, 10**30)),
        *({"search": value} for value in (5, None, [])),
        {"thresholds": {"pooled": float("nan")}},
        {"thresholds": {"pooled": float("inf")}},
    ],
    ids=str,
)
def test_a_calibration_in_the_catalog_is_checked(calibrated: Path, change: dict[str, Any]) -> None:
    with Gallery(calibrated) as gallery:
        (value,) = gallery.catalog.calibrations()
    change_catalog(calibrated, "UPDATE calibrations SET value = ?", json.dumps(value | change))
    with Gallery(calibrated) as gallery:
        with pytest.raises(GalleryDamaged, match="a threshold cannot be read"):
            gallery.info()
        with pytest.raises(GalleryDamaged, match="a threshold cannot be read"):
            calibration.Detector(gallery, search=SEARCH)


def test_a_calibration_of_another_grid_is_refused(calibrated: Path) -> None:
    (path,) = (calibrated / "calibrations").iterdir()
    with h5py.File(path, "r+") as file:
        maps = file["maps"][:, :10]
        del file["maps"]
        file["maps"] = maps
    with Gallery(calibrated) as gallery, pytest.raises(GalleryDamaged, match="other settings"):
        calibration.Detector(gallery, search=SEARCH)


@pytest.mark.parametrize(
    "settings",
    [
        {"pooled_dim": 10**12},
        {"pooled_dim": "32"},
        {"level_shapes": [[2**20, 2**20, 2**20]] * 3},
        {"pooled_dim": True},
        {"levels": []},
        {"level_shapes": [[1, 2]]},
        {"backbone": 5},
        {"precision": "int4"},
        {"preprocessing": {"input_size": [224]}},
        {"preprocessing": {"input_size": [224.5, 224]}},
        {"preprocessing": {"mean": ["a", 1, 1]}},
        {"preprocessing": {"interpolation": "sinc"}},
    ],
    ids=str,
)
def test_settings_in_the_catalog_are_checked(gallery_path: Path, settings: dict[str, Any]) -> None:
    with Gallery(gallery_path) as gallery:
        value = json.loads(gallery.catalog.meta("settings") or "")
    if "preprocessing" in settings:
        settings = {"preprocessing": value["preprocessing"] | settings["preprocessing"]}
    change_catalog(gallery_path, "UPDATE meta SET value = ? WHERE name = 'settings'", json.dumps(value | settings))
    with pytest.raises(GalleryDamaged, match="settings cannot be read"):
        Gallery(gallery_path)


@pytest.mark.parametrize(
    "search",
    [
        {"gallery_neighbours": "50"},
        {"gallery_neighbours": 2.5},
        {"score_neighbours": True},
        {"compared_levels": [7]},
        {"compared_levels": ["0"]},
        {"smoothing": "4"},
        {"level_weights": [1, 2]},
        {"grid": 2.0},
        {"image_score": 5},
        {"mode": None},
    ],
    ids=str,
)
def test_tuned_settings_are_checked(gallery_path: Path, search: dict[str, Any]) -> None:
    value = {"search": search, "images": 12, "snapshot": 1}
    change_catalog(gallery_path, "INSERT INTO meta VALUES ('tuned', ?)", json.dumps(value))
    with Gallery(gallery_path) as gallery, pytest.raises(GalleryDamaged, match="tuned settings cannot be used"):
        tuned_search(gallery)


NOTED = {"images": 12, "snapshot": 1, "changes": 0}
FACTS: list[dict[str, Any]] = [
    {"images": "12"},
    {"images": -1},
    {"snapshot": None},
    {"search": []},
    {"why": None},
    {"why": ["x"]},
    {"noted": None},
    {"noted": {}},
    {"noted": NOTED | {"changes": "1"}},
    {"noted": NOTED | {"snapshot": -1}},
]


@pytest.mark.parametrize("change", FACTS, ids=str)
def test_facts_of_tuning_are_checked(gallery_path: Path, change: dict[str, Any]) -> None:
    value = {"search": {}, "images": 12, "snapshot": 1} | change
    change_catalog(gallery_path, "INSERT INTO meta VALUES ('tuned', ?)", json.dumps(value))
    with Gallery(gallery_path) as gallery, pytest.raises(GalleryDamaged, match="tuned search settings cannot be read"):
        tuned_search(gallery)


def test_tuned_settings_without_a_reason_are_told(gallery_path: Path) -> None:
    value = {"search": {}, "images": 12, "snapshot": 1}
    change_catalog(gallery_path, "INSERT INTO meta VALUES ('tuned', ?)", json.dumps(value))
    ran = CliRunner().invoke(main, ["info", str(gallery_path)])
    assert ran.exit_code == 0, ran.output
    assert "tuned        tuned" in ran.output


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE images SET width = 0",
        "UPDATE images SET height = -5",
        "UPDATE images SET row = -1",
        "UPDATE images SET size = -1",
        f"UPDATE images SET width = {2**62}",
        f"UPDATE images SET width = {2**23}, height = {2**23}",  # millions of millions of tiles
        f"UPDATE snapshots SET moments = '{json.dumps([[1, 10**400, 1]] * 3)}'",
        "UPDATE snapshots SET images = -1",
        f"UPDATE snapshots SET images = {2**60}",
        "UPDATE shards SET rows = -1",
    ],
)
def test_numbers_in_the_catalog_are_in_range(gallery_path: Path, change: str) -> None:
    change_catalog(gallery_path, change)
    with pytest.raises(GalleryDamaged, match="unexpected"):
        read_all(gallery_path)


def read_all(path: Path) -> None:
    with Gallery(path) as gallery:
        list(gallery.images())
        gallery.info()


def test_a_note_of_the_catalog_is_checked(gallery_path: Path) -> None:
    note = gallery_path / "catalog.check"
    for line in ("9" * 5000 + " a b", "-1 a b", "1 2", "\u0663 a b"):
        note.write_text(line)
        with Gallery(gallery_path) as gallery:
            assert any("catalog.check" in problem for problem in gallery.verify())
    note.unlink()
    note.symlink_to("/dev/zero")
    with Gallery(gallery_path) as gallery:
        assert any("catalog.check" in problem for problem in gallery.verify())
    with GalleryWriter(gallery_path):
        pass
    assert not note.is_symlink()
    with Gallery(gallery_path) as gallery:
        assert list(gallery.verify()) == []


@pytest.mark.parametrize(
    "change",
    [{"width": 0}, {"height": 10**9}, {"bits": "!"}, {"bits": ""}, {"source": 7}, {"width": "6"}, None],
    ids=str,
)
def test_a_region_of_interest_in_the_catalog_is_checked(gallery_path: Path, change: dict[str, Any] | None) -> None:
    with GalleryWriter(gallery_path) as writer:
        writer.set_interest(RegionOfInterest(np.ones((5, 6), bool), "test"))
    with Gallery(gallery_path) as gallery:
        assert gallery.interest is not None
        assert list(gallery.verify()) == []
        value = json.loads(gallery.interest.to_json())
        written = "[]" if change is None else json.dumps(value | change)
        change_catalog(gallery_path, "UPDATE meta SET value = ? WHERE name = 'region_of_interest'", written)
        assert any("region of interest" in line for line in gallery.verify())
    with pytest.raises(GalleryDamaged, match="not a region of interest"):
        Gallery(gallery_path)


@pytest.mark.parametrize("change", ["false_alarms", "digest"])
def test_a_calibration_with_scores_lacks_nothing(calibrated: Path, change: str) -> None:
    with Gallery(calibrated) as gallery:
        (value,) = gallery.catalog.calibrations()
    del value[change]
    change_catalog(calibrated, "UPDATE calibrations SET value = ?", json.dumps(value))
    with Gallery(calibrated) as gallery, pytest.raises(GalleryDamaged, match="a threshold cannot be read"):
        gallery.info()


@pytest.mark.parametrize(
    "text", ['{"search": {}, "search": {"grid": 2}}', '{"images": NaN}', '{"score": 1e999}', "[" * 5000, '["\\ud800"]']
)
def test_values_in_json_are_read_strictly(calibrated: Path, text: str) -> None:
    change_catalog(calibrated, "INSERT OR REPLACE INTO meta VALUES ('tuned', ?)", text)
    with (
        Gallery(calibrated) as gallery,
        pytest.raises(GalleryDamaged, match="the tuned search settings cannot be read"),
    ):
        gallery.info()


@pytest.mark.parametrize("moments", ["true", "1", '"x"', "{}", "null", "[[1.5, 0, 0]]", "[NaN]"])
def test_moments_in_the_catalog_are_checked(calibrated: Path, moments: str) -> None:
    change_catalog(calibrated, "UPDATE snapshots SET moments = ?", moments)
    with pytest.raises(GalleryDamaged, match="moments"):
        Gallery(calibrated)


def test_numbers_that_have_come_to_an_end_are_one_line(calibrated: Path, backbone: Backbone) -> None:
    change_catalog(calibrated, "UPDATE sqlite_sequence SET seq = ?", 2**63 - 1)
    files = {path.name for path in calibrated.rglob("*.h5")}
    with GalleryWriter(calibrated) as writer, pytest.raises((GalleryDamaged, StorageError)) as raised:
        writer.add([image_file("new.png", png(99))], backbone, workers=1, decoders=HERE)
    assert "\n" not in str(raised.value)
    with Gallery(calibrated) as gallery:
        assert "new.png" not in [row.id for row in gallery.images()]
    assert {path.name for path in calibrated.rglob("*.h5")} == files
