"""Regions as outlines, masks and COCO's JSON lie where they are in the original."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from spade_index.images import Geometry
from spade_index.method.regions import Region, find_regions
from spade_index.views.example import Example, pictures_of
from spade_index.views.regions import coco, mask, outline
from spade_index.views.report import write_report

GEOMETRY = Geometry(200, 100, (50.0, 0.0, 150.0, 100.0))
GRID = (8, 8)
SQUARE = Region(((60.0, 20.0), (90.0, 20.0), (90.0, 50.0), (60.0, 50.0)), (60.0, 20.0, 30.0, 30.0), 900.0, 7.5)
HOLE = ((70.0, 30.0), (80.0, 30.0), (80.0, 40.0), (70.0, 40.0))


def changed(before: Image.Image, after: Image.Image) -> np.ndarray:
    """Return which pixels differ, bool [H, W]."""
    return (np.asarray(before) != np.asarray(after)).any(axis=2)


def test_a_mask_has_the_size_and_places_of_the_original() -> None:
    picture = mask([SQUARE], GEOMETRY)
    assert (picture.mode, picture.size) == ("L", (200, 100))
    expected = np.zeros((100, 200), np.uint8)
    expected[20:50, 60:90] = 255
    np.testing.assert_array_equal(np.asarray(picture), expected)


def test_holes_stay_open_but_regions_within_them_are_filled() -> None:
    ring = Region(SQUARE.polygon, SQUARE.box, 800.0, 7.5, (HOLE,))
    core = Region(((74.0, 34.0), (76.0, 34.0), (76.0, 36.0), (74.0, 36.0)), (74.0, 34.0, 2.0, 2.0), 4.0, 9.0)
    for regions in ([ring, core], [core, ring]):
        assert np.count_nonzero(mask(regions, GEOMETRY)) == 900 - 100 + 4


def test_no_regions_are_an_empty_mask_and_no_outline() -> None:
    assert not np.asarray(mask([], GEOMETRY)).any()
    picture = Image.new("RGB", (200, 100), "grey")
    assert not changed(picture, outline(picture, [], GEOMETRY)).any()


@pytest.mark.parametrize("threshold", [0.6, 1.2])
def test_area_is_the_number_of_pixels_in_the_mask(threshold: float) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(32, 32)), 2)
    score_map = (noise / noise.std()).astype(np.float32)
    geometry = Geometry(640, 480, (0.0, 0.0, 640.0, 480.0))
    for region in find_regions(score_map, threshold, geometry, GRID):
        inside = np.asarray(mask([region], geometry)) > 0
        assert np.count_nonzero(inside) == pytest.approx(region.area, rel=0.02, abs=20)
        rows, columns = np.nonzero(inside)
        x, y, width, height = region.box
        assert (columns.min(), rows.min()) == pytest.approx((x, y), abs=3)
        assert (columns.max() + 1, rows.max() + 1) == pytest.approx((x + width, y + height), abs=3)


@pytest.mark.parametrize("background", ["white", "black"])
@pytest.mark.parametrize("size", [(200, 100), (50, 25), (1600, 800)])
def test_outlines_are_visible_thin_and_in_place(size: tuple[int, int], background: str) -> None:
    picture = Image.new("RGB", size, background)
    drawn = outline(picture, [SQUARE], GEOMETRY)
    assert drawn.size == size
    assert len(picture.getcolors()) == 1
    marked = changed(picture, drawn)
    scale = size[0] / 200
    rows, columns = np.nonzero(marked)
    assert (columns.min() / scale, columns.max() / scale) == pytest.approx((60, 90), abs=3 / min(scale, 1))
    assert (rows.min() / scale, rows.max() / scale) == pytest.approx((20, 50), abs=3 / min(scale, 1))
    assert not marked[int(30 * scale) : int(40 * scale), int(70 * scale) : int(80 * scale)].any()


def test_an_outline_reaches_the_edge_of_the_picture() -> None:
    everything = Region(((0.0, 0.0), (200.0, 0.0), (200.0, 100.0), (0.0, 100.0)), (0.0, 0.0, 200.0, 100.0), 2e4, 1.0)
    marked = changed(picture := Image.new("RGB", (200, 100), "red"), outline(picture, [everything], GEOMETRY))
    assert marked[0].all()
    assert marked[-1].all()
    assert marked[:, 0].all()
    assert marked[:, -1].all()


def test_coco_has_every_image_and_numbers_from_1() -> None:
    ring = Region(SQUARE.polygon, SQUARE.box, 800.0, 7.5, (HOLE,))
    images = [("a.png", GEOMETRY, [SQUARE, ring]), ("b.png", GEOMETRY, []), ("c.png", GEOMETRY, [SQUARE])]
    written = json.loads(json.dumps(coco(images)))
    assert list(written) == ["info", "licenses", "images", "annotations", "categories"]
    assert written["images"][2] == {"id": 3, "file_name": "c.png", "width": 200, "height": 100}
    assert [entry["image_id"] for entry in written["annotations"]] == [1, 1, 3]
    assert [entry["id"] for entry in written["annotations"]] == [1, 2, 3]
    assert [category["name"] for category in written["categories"]] == ["defect"]
    assert written["annotations"][1] == {
        "id": 2,
        "image_id": 1,
        "category_id": written["categories"][0]["id"],
        "segmentation": [[60.0, 20.0, 90.0, 20.0, 90.0, 50.0, 60.0, 50.0]],
        "bbox": [60.0, 20.0, 30.0, 30.0],
        "area": 800.0,
        "score": 7.5,
        "iscrowd": 0,
    }


def test_a_page_tells_the_number_of_regions(tmp_path: Path) -> None:
    picture = Image.new("RGB", (200, 100), "grey")
    for count, words in ((0, None), (1, ">1 region<"), (2, ">2 regions<")):
        shown = Example("a.png", "", picture, 1.0, heatmap=picture, regions=[SQUARE] * count, geometry=GEOMETRY)
        write_report(tmp_path / "report.html", title="Regions", summary=[], examples=[shown])
        page = (tmp_path / "report.html").read_text()
        assert words in page if words else 'class="regions"' not in page


def test_a_page_outlines_regions_on_the_heat_map_only() -> None:
    picture = Image.new("RGB", (200, 100), "grey")
    shown = Example("a.png", "", picture, 1.0, heatmap=picture, regions=[SQUARE], geometry=GEOMETRY)
    image, heat, *_ = pictures_of(shown, 320).values()
    assert image is not None
    assert heat is not None
    assert not changed(image, picture.resize(image.size)).any()
    assert changed(heat, picture.resize(heat.size)).any()
