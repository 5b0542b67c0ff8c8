"""`compact` writes calibrations again without removed images."""

import json
from pathlib import Path

import numpy as np
import pytest

from spade_index.errors import GalleryDamaged
from spade_index.gallery import Gallery
from spade_index.gallery.store import leave_one_out
from spade_index.gallery.store.leave_one_out import LeaveOneOut
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.method import calibration
from spade_index.method.normal_scores import stored_calibration
from spade_index.settings import SearchSettings

SEARCH = SearchSettings(gallery_neighbours=6)


@pytest.fixture
def calibrated(gallery_path: Path) -> Path:
    """A gallery of 12 images with a calibration that allows one false alarm in five."""
    with GalleryWriter(gallery_path) as writer:
        calibration.store(writer, SEARCH, calibration.calibrate(writer.gallery, SEARCH, false_alarms=0.2))
    return gallery_path


def file_of(path: Path) -> Path:
    with Gallery(path) as gallery:
        (name,) = gallery.catalog.calibration_files()
    return path / "calibrations" / name


def compact(path: Path, *removed: str) -> int:
    with GalleryWriter(path) as writer:
        if removed:
            writer.remove(removed)
        return writer.compact()


def test_rows_of_removed_images_go_and_all_others_stay(calibrated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leave_one_out, "ROWS", 4)
    before, old = LeaveOneOut.read(file_of(calibrated)), file_of(calibrated)
    with Gallery(calibrated) as gallery:
        gone = [gallery.image(id).key for id in ("003.png", "007.png")]
    compact(calibrated, "003.png", "007.png")
    after = LeaveOneOut.read(file_of(calibrated))
    kept = ~np.isin(before.keys, gone)
    assert after.keys.tolist() == before.keys[kept].tolist()
    np.testing.assert_array_equal(after.maps, before.maps[kept])
    assert after.scores.keys() == before.scores.keys()
    for kind, scores in after.scores.items():
        np.testing.assert_array_equal(scores, before.scores[kind][kept])
    assert not old.exists()
    assert file_of(calibrated).stat().st_size < 20_000
    with Gallery(calibrated) as gallery:
        assert list(gallery.verify()) == []
        stored = stored_calibration(gallery, SEARCH)
        assert stored is not None
        assert stored.scores is not None
        assert stored.thresholds == {kind: stored.scores.threshold(kind, 0.2) for kind in ("pooled", "map", "both")}
        (told,) = gallery.catalog.calibrations()
        assert (told["images"], told["false_alarms"]) == (10, 0.2)


def test_a_calibration_without_removed_images_stays_as_it_is(calibrated: Path) -> None:
    file = file_of(calibrated)
    compact(calibrated)
    assert file_of(calibrated) == file


def test_too_few_images_that_are_left_have_no_threshold(calibrated: Path) -> None:
    compact(calibrated, *(f"{number:03d}.png" for number in range(9)))
    with Gallery(calibrated) as gallery:
        (told,) = gallery.catalog.calibrations()
    assert (told["images"], told["thresholds"]) == (3, {})


def test_a_calibration_whose_images_are_all_removed_is_forgotten(calibrated: Path) -> None:
    file = file_of(calibrated)
    compact(calibrated, *(f"{number:03d}.png" for number in range(12)))
    with Gallery(calibrated) as gallery:
        assert gallery.catalog.calibrations() == []
    assert not file.exists()


def test_a_calibration_of_an_earlier_version_has_no_file_and_stays(gallery_path: Path) -> None:
    value = {"thresholds": {"pooled": 1.0}, "quantile": 0.99, "snapshot": 1, "search": SEARCH.calibration_key()}
    with GalleryWriter(gallery_path) as writer:
        writer.set_calibration(SEARCH.calibration_key(), value)
    compact(gallery_path, "003.png")
    with Gallery(gallery_path) as gallery:
        assert gallery.catalog.calibrations() == [json.loads(json.dumps(value))]


def test_changed_bytes_are_not_copied(calibrated: Path) -> None:
    file = file_of(calibrated)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1  # of a map
    file.write_bytes(data)
    with pytest.raises(GalleryDamaged, match="`spade-index calibrate "):
        compact(calibrated, "003.png")
    with Gallery(calibrated) as gallery:
        assert len(gallery) == 11
        assert [problem.calibration for problem in gallery.problems()] == [file.name]
    with GalleryWriter(calibrated) as writer:
        writer.repair()
        writer.compact()
