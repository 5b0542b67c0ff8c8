"""Regions are the places above a threshold, as polygons in the pixels of the original image."""

import numpy as np
import pytest
from scipy import ndimage

from spade_index.errors import InputError
from spade_index.images import Geometry, covered
from spade_index.method import regions
from spade_index.method.outline import enclosed_area, fill, simplify
from spade_index.method.regions import MOST_POINTS, MOST_REGIONS, cleaned, find_regions
from spade_index.settings import Preprocessing

GRID = (8, 8)


def scores(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (32, 32)) -> np.ndarray:
    """Return a score map of 0 with boxes (top, left, bottom, right) of 2, 3, 4 ..."""
    score_map = np.zeros(size, np.float32)
    for score, (top, left, bottom, right) in enumerate(boxes, 2):
        score_map[top:bottom, left:right] = score
    return score_map


def whole(size: tuple[int, int], scale: float = 1) -> Geometry:
    """Return the geometry of an original that is `scale` times as large as its score map (H, W)."""
    height, width = (round(scale * edge) for edge in size)
    return Geometry(width, height, (0.0, 0.0, float(width), float(height)))


def filled(found: list[regions.Region], size: tuple[int, int]) -> np.ndarray:
    polygons = [np.array(polygon) for region in found for polygon in (region.polygon, *region.holes)]
    return fill(polygons, size)


def test_a_box_is_where_it_is_and_the_highest_score_comes_first() -> None:
    score_map = scores((4, 8, 12, 20), (20, 2, 26, 8))
    low, high = sorted(find_regions(score_map, 1.0, whole((32, 32)), GRID), key=lambda region: region.score)
    assert find_regions(score_map, 1.0, whole((32, 32)), GRID) == [high, low]
    assert (low.score, high.score) == (2.0, 3.0)
    assert low.box == pytest.approx((8, 4, 12, 8), abs=0.5)
    assert high.box == pytest.approx((2, 20, 6, 6), abs=0.5)
    assert low.area == pytest.approx(96, rel=0.1)
    assert low.area == pytest.approx(enclosed_area(np.array(low.polygon)), abs=0.06)
    assert all(round(edge, 1) == edge for point in low.polygon for edge in point)
    assert low.polygon[0] != low.polygon[-1]


@pytest.mark.parametrize("how", [Preprocessing(input_size=(32, 32)), Preprocessing(input_size=(32, 32), resize=40)])
def test_places_are_pixels_of_the_original(how: Preprocessing) -> None:
    geometry = covered(400, 300, how)
    left, top, right, bottom = geometry.box
    (region,) = find_regions(scores((8, 16, 16, 24)), 1.0, geometry, GRID)
    x, y = (right - left) / 32, (bottom - top) / 32
    assert region.box == pytest.approx((left + 16 * x, top + 8 * y, 8 * x, 8 * y), abs=0.6 * max(x, y))


def test_a_region_at_the_edge_ends_at_the_edge_of_what_was_seen() -> None:
    geometry = Geometry(200, 100, (50.0, 0.0, 150.0, 100.0))
    (everything,) = find_regions(np.full((32, 32), 2, np.float32), 1.0, geometry, GRID)
    assert everything.box == (50.0, 0.0, 100.0, 100.0)
    assert everything.area == pytest.approx(100 * 100, rel=0.01)
    (corner,) = find_regions(scores((24, 0, 32, 8)), 1.0, geometry, GRID)
    assert corner.box[0] == 50.0
    assert corner.box[1] + corner.box[3] == 100.0


@pytest.mark.parametrize("threshold", [2.0, 2.5, np.inf])
def test_nothing_above_the_threshold_is_no_region(threshold: float) -> None:
    assert find_regions(scores((4, 4, 20, 20)), threshold, whole((32, 32)), GRID) == []


def test_small_holes_are_filled_and_large_ones_are_not() -> None:
    score_map = scores((2, 2, 30, 30))
    score_map[5:8, 5:8] = 0
    score_map[14:24, 14:24] = 0
    (region,) = find_regions(score_map, 1.0, whole((32, 32)), GRID)
    assert len(region.holes) == 1
    assert region.area == pytest.approx(28 * 28 - 100, rel=0.05)
    assert cleaned(score_map, 1.0, GRID)[6, 6]
    assert not cleaned(score_map, 1.0, GRID)[18, 18]


def test_a_gap_at_the_edge_is_no_hole() -> None:
    score_map = scores((0, 0, 32, 32))
    score_map[0:2, 10:12] = 0
    assert not cleaned(score_map, 1.0, GRID)[0, 10]


def test_specks_are_dropped_unless_one_holds_the_maximum() -> None:
    score_map = scores((4, 4, 16, 16))
    score_map[24, 24] = 1.5
    assert len(find_regions(score_map, 1.0, whole((32, 32)), GRID)) == 1
    score_map[24, 24] = 9
    speck, large = find_regions(score_map, 1.0, whole((32, 32)), GRID)
    assert (speck.score, large.score) == (9.0, 2.0)


@pytest.mark.parametrize("scale", [0.1, 0.5, 1, 7.3])
@pytest.mark.parametrize("place", [(0, 0), (13, 17), (31, 31), (31, 0)])
def test_the_smallest_region_has_at_least_a_pixel(scale: float, place: tuple[int, int]) -> None:
    score_map = np.zeros((32, 32), np.float32)
    score_map[place] = 1
    geometry = whole((32, 32), scale)
    (region,) = find_regions(score_map, float(np.nextafter(1, 0)), geometry, GRID)
    x, y, width, height = region.box
    assert region.area >= 1
    assert min(width, height) >= 1
    assert 0 <= x <= x + width <= geometry.width
    assert 0 <= y <= y + height <= geometry.height
    assert len(set(region.polygon)) >= 3
    assert filled([region], (geometry.height, geometry.width)).any()


def test_pixels_that_touch_at_corners_are_one_region() -> None:
    score_map = (np.eye(31, dtype=np.float32) + np.eye(31, dtype=np.float32)[::-1]).clip(0, 1)
    (region,) = find_regions(score_map, 0.9, whole((31, 31), 10), (31, 31))
    assert region.box == pytest.approx((0, 0, 310, 310), abs=5)


@pytest.mark.parametrize("size", [(31, 37), (48, 53), (5, 83)])
@pytest.mark.parametrize("smoothing", [0.0, 1.0, 3.0])
def test_polygons_enclose_what_is_above_the_threshold(
    size: tuple[int, int], smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regions, "TOLERANCE", 0)
    monkeypatch.setattr(regions, "MOST_POINTS", 10_000)
    noise = np.random.default_rng(1).normal(size=size)
    score_map = ndimage.gaussian_filter(noise, smoothing).astype(np.float32)
    threshold = float(np.quantile(score_map, 0.8))
    grid = (max(1, size[0] // 2), size[1] // 2)
    found = find_regions(score_map, threshold, whole(size, 101), grid)
    centres = filled(found, (101 * size[0], 101 * size[1]))[50::101, 50::101]
    wanted = cleaned(score_map, threshold, grid)
    assert len(found) < MOST_REGIONS
    np.testing.assert_array_equal(centres, wanted)
    assert found[0].score == score_map.max()
    assert [region.score for region in found] == sorted((region.score for region in found), reverse=True)


def test_regions_and_points_are_bounded() -> None:
    noise = np.random.default_rng(2).normal(size=(224, 224)).astype(np.float32)
    specks = find_regions(noise, 1.5, whole((224, 224)), (224, 224))
    assert len(specks) == MOST_REGIONS
    maze = find_regions(noise, 0.0, whole((224, 224), 5), (224, 224))
    assert max(len(region.polygon) for region in maze) <= MOST_POINTS
    assert max(len(region.polygon) for region in maze) > MOST_POINTS / 4


@pytest.mark.parametrize("threshold", [np.nan, -np.inf])
def test_a_threshold_that_is_no_number_is_refused(threshold: float) -> None:
    with pytest.raises(InputError, match="threshold"):
        find_regions(scores((4, 4, 8, 8)), threshold, whole((32, 32)), GRID)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_map_that_is_not_finite_is_refused(value: float) -> None:
    score_map = scores((4, 4, 8, 8))
    score_map[0, 0] = value
    with pytest.raises(InputError, match="not finite"):
        find_regions(score_map, 1.0, whole((32, 32)), GRID)


def test_simplified_polygons_stay_near() -> None:
    angles = np.linspace(0, 2 * np.pi, 1000, endpoint=False)
    circle = 100 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    simple = simplify(circle, 0.25, 500)
    assert 20 < len(simple) < 80
    assert enclosed_area(simple) == pytest.approx(enclosed_area(circle), rel=0.01)
    assert len(simplify(circle, 0.0001, 12)) <= 12


def test_pixels_are_filled_by_their_centres_and_holes_stay_open() -> None:
    outer = np.array([[1.0, 1.0], [7.0, 1.0], [7.0, 5.0], [1.0, 5.0]])
    hole = np.array([[3.0, 2.0], [5.0, 2.0], [5.0, 4.0], [3.0, 4.0]])
    expected = np.zeros((6, 8), bool)
    expected[1:5, 1:7] = True
    expected[2:4, 3:5] = False
    np.testing.assert_array_equal(fill([outer, hole], (6, 8)), expected)
    np.testing.assert_array_equal(fill([outer + 0.4, hole - 0.4], (6, 8)), expected)
    assert not fill([outer + 100, outer - 100], (6, 8)).any()
