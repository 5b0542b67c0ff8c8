"""Two scales: whole pictures beside their tiles are compared with their own kind, and scored in one unit."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from spade_index.errors import InputError
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images.decode import load_parts
from spade_index.images.files import ImageFile
from spade_index.images.tiles import picture_of
from spade_index.method import calibration
from spade_index.method.alone import nearest_others
from spade_index.method.audit import audit, without_themselves
from spade_index.method.detection import Detection
from spade_index.method.detector import Detector
from spade_index.method.evidence import worst_evidence
from spade_index.method.normal_scores import stored_calibration
from spade_index.method.pictures import JoinedPixels, detect_parts
from spade_index.method.regions import regions_of
from spade_index.method.scales import Units, units_of
from spade_index.settings import SearchSettings

from helpers.discs import DOT, EDGE, disc
from helpers.tiled import tiled_settings
from helpers.tiny import tiny_backbone

PICTURES = 20
SEARCH = SearchSettings(gallery_neighbours=5, smoothing=1.0, image_score="map", window=1, level_weights="equal")
TILES, WHOLES = replace(SEARCH, whole_weight=0.0), replace(SEARCH, whole_weight=1.0)
LARGE, SMALL = disc("large", 100, missing=True), disc("small", 101, dotted=True)


def is_whole(id: str) -> bool:
    return id.endswith("@whole")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of two scales that is calibrated for the higher score, for tiles and for whole pictures."""
    folder = tmp_path_factory.mktemp("scales")
    pictures = [disc(f"{number:02}.png", number) for number in range(PICTURES)]
    with GalleryWriter(folder / "tiles", tiled_settings(overlap=0.0)) as writer:
        writer.add(pictures, tiny_backbone())
        calibration.store(writer, SEARCH, calibration.calibrate(writer.gallery, SEARCH))
    with GalleryWriter(folder / "both", tiled_settings(overlap=0.0, whole=True)) as writer:
        writer.add(pictures, tiny_backbone())
        found = calibration.calibrate(writer.gallery, SEARCH)
        calibration.store(writer, SEARCH, found)
        for search in (TILES, WHOLES):
            again = calibration.calibrate(writer.gallery, search, earlier=found.found)
            calibration.store(writer, search, again)
    return folder / "both"


@pytest.fixture(scope="module")
def gallery(path: Path) -> Iterator[Gallery]:
    with Gallery(path) as opened:
        yield opened
    detector_of.cache_clear()


@cache
def detector_of(gallery: Gallery, search: SearchSettings) -> Detector:
    """Return a detector, which keeps the maps that it has read."""
    return Detector(gallery, tiny_backbone(), search)


def detected(gallery: Gallery, search: SearchSettings, file: ImageFile) -> Detection:
    return detect_parts(detector_of(gallery, search), load_parts(file, gallery.settings.preprocessing))


def test_a_defect_that_one_scale_does_not_tell_is_found_by_both(gallery: Gallery) -> None:
    good = [disc(f"good {number}", 200 + number) for number in range(5)]
    for search in (TILES, WHOLES, SEARCH):
        assert [detected(gallery, search, file).anomalous for file in good].count(True) <= 1
    wanted = {"large": (False, True, True), "small": (True, False, True)}
    for file in (LARGE, SMALL):
        found = tuple(detected(gallery, search, file).anomalous for search in (TILES, WHOLES, SEARCH))
        assert found == wanted[file.id]


def test_the_evidence_and_regions_are_those_of_the_scale_that_tells(gallery: Gallery) -> None:
    for file, place, reach in ((LARGE, (EDGE / 2, EDGE / 2), EDGE / 4 + 8), (SMALL, DOT, 10)):
        found = detected(gallery, SEARCH, file)
        (part, *_) = load_parts(file, gallery.settings.preprocessing)
        geometry = replace(part.geometry, box=(0.0, 0.0, float(EDGE), float(EDGE)))
        evidence = worst_evidence(gallery, found, geometry)
        assert evidence is not None
        assert is_whole(evidence.neighbour) == (file is LARGE)
        assert np.hypot(*np.subtract(evidence.pixel, place)) <= reach
        regions = regions_of(found, geometry)
        assert regions
        x, y, width, height = regions[0].box
        assert x <= place[0] <= x + width
        assert y <= place[1] <= y + height
        assert found.pixels is not None
        assert found.p_value == pytest.approx(1 / (PICTURES + 1))


def test_rows_are_compared_with_their_own_scale_only(gallery: Gallery) -> None:
    parts = load_parts(disc("new", 300), gallery.settings.preprocessing)
    for search in (SEARCH, replace(SEARCH, same_place=True)):
        for part, detection in zip(parts, Detector(gallery, tiny_backbone(), search).detect(parts), strict=True):
            assert detection.pixels is not None
            near = [*detection.neighbours, *detection.pixels.neighbours]
            assert {is_whole(neighbour.id) for neighbour in near} == {is_whole(part.id)}
            assert len(detection.pixels.neighbours) == SEARCH.gallery_neighbours
    detector = Detector(gallery, tiny_backbone(), SEARCH)
    for row in gallery.images():
        (nearest,) = nearest_others(detector, [row], near=0.0)
        assert {is_whole(neighbour.id) for neighbour in nearest} == {is_whole(row.id)}
        assert picture_of(row.id) not in {picture_of(neighbour.id) for neighbour in nearest}


def test_the_nearest_whole_pictures_are_those_by_brute_force(gallery: Gallery) -> None:
    detector = Detector(gallery, tiny_backbone(), SEARCH)
    (*_, whole) = load_parts(disc("new", 301), gallery.settings.preprocessing)
    (found,) = detector.detect([whole])
    rows = [row for row in gallery.images() if is_whole(row.id)]
    query = tiny_backbone()(whole.pixels[None]).pooled.numpy().astype(np.float64)
    distances = ((gallery.pooled(rows).astype(np.float64) - query) ** 2).sum(1)
    wanted = [rows[place].id for place in np.argsort(distances)[: SEARCH.score_neighbours]]
    assert [neighbour.id for neighbour in found.neighbours] == wanted


def test_without_weight_all_is_as_in_a_gallery_of_tiles_alone(
    path: Path, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Gallery(path.parent / "tiles") as alone:
        for file in (LARGE, SMALL, disc("new", 302)):
            one, other = detected(gallery, TILES, file), detected(alone, SEARCH, file)
            assert one.scores == other.scores
            assert one.pixels is not None
            assert other.pixels is not None
            np.testing.assert_array_equal(one.pixels.score_map, other.pixels.score_map)
        monkeypatch.setattr("spade_index.method.alone.near_distance", lambda gallery: 0.0)  # that of a sample of rows
        found, wanted = calibration.calibrate(gallery, TILES), calibration.calibrate(alone, SEARCH)
        assert found.thresholds == wanted.thresholds


def test_the_higher_of_both_maps_counts(gallery: Gallery) -> None:
    detector, how = Detector(gallery, tiny_backbone(), SEARCH), gallery.settings.preprocessing
    for file in (LARGE, SMALL):
        parts = load_parts(file, how)
        alone, joined = detector.detect(parts), detect_parts(detector, parts)
        assert joined.score == max(detection.score for detection in alone)
        assert isinstance(joined.pixels, JoinedPixels)
        assert joined.pixels.by_whole is not None
        assert alone[-1].pixels is not None
        peak = alone[-1].pixels.peak
        assert joined.pixels.score_map[joined.pixels.by_whole].max() == pytest.approx(peak, rel=0.2)
        tiles = detected(gallery, TILES, file).pixels
        assert tiles is not None
        seen = ~joined.pixels.by_whole
        np.testing.assert_allclose(joined.pixels.score_map[seen], tiles.score_map[seen], rtol=1e-6)


def test_a_normal_picture_rarely_exceeds_the_unit_of_either_scale(gallery: Gallery) -> None:
    stored = stored_calibration(gallery, SEARCH)
    assert stored is not None
    assert stored.scores is not None
    assert len(stored.scores) == PICTURES
    assert len(stored.scores.keys) == len(gallery)
    whole = np.array([is_whole(id) for id in gallery.catalog.ids(stored.scores.keys.tolist()).values()])
    scores = stored.scores.of("map")
    tiles = scores[~whole].reshape(PICTURES, -1).max(1)  # in the order of keys, picture by picture
    assert np.quantile(scores[whole], 0.9) == pytest.approx(np.quantile(tiles, 0.9))
    ascending = np.sort(np.maximum(tiles, scores[whole]))
    assert stored.thresholds["map"] == pytest.approx(ascending[-1])
    assert stored.scores.p_value("map", ascending[-1]) == pytest.approx(2 / (PICTURES + 1))


def test_an_audit_ranks_both_scales_in_one_unit(path: Path, tmp_path: Path) -> None:
    with GalleryWriter(tmp_path / "gallery", tiled_settings(overlap=0.0, whole=True)) as writer:
        pictures = [disc(f"{number:02}.png", number) for number in range(12)]
        writer.add([*pictures, replace(LARGE, id="a.png"), replace(SMALL, id="b.png")], tiny_backbone())
        tuned = {"gallery_neighbours": 5, "smoothing": 1.0, "window": 1, "mapped_score": "map"}
        writer.set_tuned({"search": tuned, "images": len(writer.gallery), "snapshot": writer.gallery.snapshot})
        search = replace(SEARCH, level_weights="inverse-variance", image_score=None, mapped_score="map")
        calibration.store(writer, search, calibration.calibrate(writer.gallery, search))
        found = audit(writer.gallery, 6)
        assert "a.png@whole" in [odd.id for odd in found.odd]
        assert "b.png" in [picture_of(odd.id) for odd in found.odd]
        assert all(len({is_whole(id) for id in group}) == 1 for group in found.doubled)
        detector = Detector(writer.gallery, tiny_backbone(), search)
        rows = [writer.gallery.image(odd.id) for odd in found.odd]
        for odd, (_, again) in zip(found.odd, without_themselves(detector, rows), strict=True):
            assert again.scores["map"] == pytest.approx(odd.score, rel=1e-3)


def test_a_weight_needs_whole_pictures(path: Path) -> None:
    with Gallery(path.parent / "tiles") as alone:
        Detector(alone, search=SEARCH)
        with pytest.raises(InputError, match="without --whole"):
            Detector(alone, search=WHOLES)


def test_uncalibrated_scales_are_taken_as_they_are(gallery: Gallery) -> None:
    detector = Detector(gallery, tiny_backbone(), SEARCH, calibrated=False)
    assert detector.units == Units(0.5)
    found = detect_parts(detector, load_parts(LARGE, gallery.settings.preprocessing))
    assert (found.anomalous, found.p_value) == (None, None)


@pytest.mark.parametrize(
    ("weight", "tiles", "whole"), [(0, 1, 0), (0.25, 1, 0.5), (0.5, 1, 1), (0.75, 0.5, 1), (1, 0, 1)]
)
def test_a_weight_says_how_much_each_scale_counts(weight: float, tiles: float, whole: float) -> None:
    units = Units(weight, {"map": 3.0})
    assert (units.of("map", whole=False), units.of("map", whole=True)) == (tiles, 3 * whole)
    assert (units.counts(whole=False), units.counts(whole=True)) == (tiles > 0, whole > 0)


def test_units_are_of_pictures() -> None:
    pictures, whole = np.array([0, 0, 0, 1, 1, 1]), np.array([False, False, True] * 2)
    scores = {"map": np.array([1.0, 4.0, 8.0, 4.0, 0.0, 8.0]), "low": np.array([-1.0, -1.0, 0.0] * 2)}
    assert units_of(scores, pictures, whole, 0.5).ratios == {"map": 0.5, "low": 1.0}
    assert units_of(scores, pictures, whole, 0.5).of("map", whole=True) == 0.5
    assert units_of(scores, pictures, np.full(6, False), 0.5).ratios is None
