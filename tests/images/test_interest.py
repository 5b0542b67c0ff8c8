"""Regions of interest: from masks and polygons, in fractions of a picture's edges, and on the grid of a part of it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spade_index.errors import InputError
from spade_index.images import covered
from spade_index.images.decode import ORIENTATION
from spade_index.images.geometry import Geometry
from spade_index.images.interest import EDGE, RegionOfInterest
from spade_index.images.region_files import read_region
from spade_index.settings import Preprocessing

LEFT_HALF = {"polygons": [[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]}


def written(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


def whole(width: int, height: int) -> Geometry:
    return covered(width, height, Preprocessing(input_size=(64, 64)))


def test_a_mask_counts_where_it_is_not_zero(tmp_path: Path) -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[:, :30] = 1
    Image.fromarray(mask).save(tmp_path / "roi.png")
    region = read_region(tmp_path / "roi.png")
    assert region.area == 0.5
    for width, height in ((60, 40), (600, 400), (33, 77)):  # pictures of any size
        cells = region.cells(whole(width, height), (4, 8))
        np.testing.assert_array_equal(cells, np.arange(8) < 4 * np.ones((4, 1)))


def test_a_mask_is_turned_by_its_own_orientation(tmp_path: Path) -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[:20] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(mask).save(tmp_path / "roi.png", exif=exif)
    region = read_region(tmp_path / "roi.png")
    assert region.mask.shape == (60, 40)
    np.testing.assert_array_equal(region.cells(whole(40, 60), (1, 2)), [[False, True]])


@pytest.mark.parametrize(
    "value",
    [
        LEFT_HALF,
        {"polygons": [[[0, 0], [300, 0], [300, 400], [0, 400]]], "size": [600, 400]},
        {
            "shapes": [{"points": [[0, 0], [300, 0], [300, 400], [0, 400]], "shape_type": "polygon"}],
            "imageWidth": 600,
            "imageHeight": 400,
        },
        {
            "images": [{"width": 600, "height": 400}],
            "annotations": [{"segmentation": [[0, 0, 300, 0, 300, 400, 0, 400]]}],
        },
    ],
    ids=["fractions", "pixels", "LabelMe", "COCO"],
)
def test_polygons_count_inside(tmp_path: Path, value: object) -> None:
    region = read_region(written(tmp_path / "roi.json", value))
    assert region.area == pytest.approx(0.5, abs=0.002)
    np.testing.assert_array_equal(region.cells(whole(90, 50), (2, 4)), [[True, True, False, False]] * 2)


def test_a_cell_counts_from_half_of_it_on(tmp_path: Path) -> None:
    mask = np.zeros((8, 80), bool)
    mask[:, :15] = True  # of cells of 10 pixels
    region = RegionOfInterest(mask, "test")
    assert region.cells(whole(80, 8), (1, 8)).sum() == 2
    mask[:, 14] = False
    assert RegionOfInterest(mask, "test").cells(whole(80, 8), (1, 8)).sum() == 1


def test_a_crop_sees_its_part_of_the_region() -> None:
    mask = np.zeros((100, 200), bool)
    mask[:, 50:100] = True
    crop = covered(400, 200, Preprocessing(input_size=(32, 32), resize=32))  # the middle half
    assert crop.box == (100.0, 0.0, 300.0, 200.0)
    np.testing.assert_array_equal(RegionOfInterest(mask, "test").cells(crop, (1, 4)), [[True, True, False, False]])


def test_beyond_the_edge_the_region_is_mirrored_as_the_picture_is() -> None:
    mask = np.zeros((10, 100), bool)
    mask[:, :10] = True
    tile = Geometry(100, 10, (-20.0, 0.0, 20.0, 10.0))
    np.testing.assert_array_equal(RegionOfInterest(mask, "test").cells(tile, (1, 4)), [[False, True, True, False]])


def test_large_masks_are_stored_small_and_read_back(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    mask = np.kron(random.random((30, 40)) < 0.4, np.ones((100, 100))).astype(bool)
    Image.fromarray(mask).save(tmp_path / "roi.png")
    region = read_region(tmp_path / "roi.png")
    assert max(region.mask.shape) == EDGE
    assert region.area == pytest.approx(mask.mean(), abs=0.01)
    again = RegionOfInterest.from_json(region.to_json())
    np.testing.assert_array_equal(again.mask, region.mask)
    assert again.digest == region.digest
    assert again.source == "mask roi.png"


def test_names_that_cannot_be_printed_are_stored_escaped(tmp_path: Path) -> None:
    for name, shown in (("new\nline.png", "'new\\nline.png'"), ("byte\udcff.png", "byte\\xff.png")):
        Image.new("L", (3, 3), 255).save(tmp_path / name)
        region = RegionOfInterest.from_json(read_region(tmp_path / name).to_json())
        assert region.source == f"mask {shown}"


def test_the_digest_is_of_what_is_inside() -> None:
    mask = np.zeros((4, 6), bool)
    mask[1, 2] = True
    one = RegionOfInterest(mask, "one")
    assert one.digest == RegionOfInterest(mask.copy(), "another").digest
    assert one.digest != RegionOfInterest(~mask, "one").digest
    assert one.digest != RegionOfInterest(mask.reshape(6, 4), "one").digest


REFUSED: dict[str, tuple[object, str]] = {
    "nothing": ({"polygons": []}, "has no polygons"),
    "list": ([[0, 0], [1, 0], [1, 1]], "polygons are"),
    "other": ({"points": []}, "none of"),
    "nan": ({"polygons": [[[0, 0], [float("nan"), 0], [1, 1]]]}, "not finite"),
    "infinite": ({"polygons": [[[0, 0], [1, 0], [1, float("inf")]]]}, "not finite"),
    "huge": ({"polygons": [[[0, 0], [1, 0], [1, 10**400]]]}, "not finite"),
    "text": ({"polygons": [[[0, 0], [1, 0], [1, "1"]]]}, "not a number"),
    "two_points": ({"polygons": [[[0, 0], [1, 1]]]}, "three points"),
    "flat": ({"polygons": [[0, 0, 1, 0, 1, 1]]}, "[x, y]"),
    "pixels": ({"polygons": [[[0, 0], [300, 0], [300, 200]]]}, '"size"'),
    "outside": ({"polygons": [[[0, 0], [700, 0], [300, 200]]], "size": [600, 400]}, "outside of the picture"),
    "size": ({"polygons": [[[0, 0], [1, 0], [1, 1]]], "size": [0, 4]}, "picture of 0x4"),
    "size of flags": ({"polygons": [[[0, 0], [1, 0], [1, 1]]], "size": [True, True]}, "is two numbers"),
    "sizes": ({"polygons": [[[0, 0], [1, 0], [1, 1]]], "size": 7}, "cannot be read"),
    "huge_size": ({"polygons": [[[0, 0], [1, 0], [1, 1]]], "size": [10**400, 4]}, "cannot be read"),
    "two_images": ({"annotations": [], "images": [{}, {}]}, "cannot be read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_polygons_that_cannot_be_are_named_in_one_line(tmp_path: Path, name: str) -> None:
    value, wanted = REFUSED[name]
    path = written(tmp_path / f"{name}.json", value)
    with pytest.raises(InputError) as raised:
        read_region(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert wanted in str(raised.value)
    assert "\n" not in str(raised.value)


def test_files_that_are_no_region_are_named(tmp_path: Path) -> None:
    Image.new("L", (30, 20)).save(tmp_path / "zero.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "broken.json").write_text('{"polygons": [')
    (tmp_path / "deep.json").write_text("[" * 100_000)
    speck = np.zeros((9000, 9000), np.uint8)
    speck[0, 0] = 1
    Image.fromarray(speck).save(tmp_path / "speck.png")
    wanted = {
        "zero.png": "nothing of the picture is inside",
        "text.png": "not an image",
        "broken.json": "is not JSON",
        "deep.json": "is not JSON",
        "missing.png": "is not there",
        "missing.json": "is not there",
        "speck.png": "too small",
    }
    for name, words in wanted.items():
        with pytest.raises(InputError, match=words) as raised:
            read_region(tmp_path / name)
        assert str(tmp_path / name) in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0},
        {"width": 5000},
        {"height": True},
        {"height": 7},
        {"bits": "AAAA"},
        {"bits": 7},
        {"bits": ""},
        {"source": None},
        {"source": "\x1b[2J"},
        {"source": "a" * 5000},
    ],
    ids=str,
)
def test_a_stored_region_is_read_as_a_suspect(change: dict[str, object]) -> None:
    value = json.loads(RegionOfInterest(np.ones((5, 6), bool), "test").to_json())
    with pytest.raises(ValueError, match="not a region of interest"):
        RegionOfInterest.from_json(json.dumps(value | change))


def test_a_stored_region_that_inflates_without_end_is_refused() -> None:
    large = RegionOfInterest(np.ones((1000, 1000), bool), "test").to_json()
    value = json.loads(large) | {"width": 3, "height": 3}
    with pytest.raises(ValueError, match="another size"):
        RegionOfInterest.from_json(json.dumps(value))
    with pytest.raises(ValueError, match="nothing is inside"):
        RegionOfInterest.from_json(RegionOfInterest(np.zeros((3, 3), bool), "test").to_json())
    for text in ("", "[]", "7", "null", "[" * 100_000):
        with pytest.raises(ValueError, match="not a region of interest"):
            RegionOfInterest.from_json(text)


LABELME = {"imageWidth": 600, "imageHeight": 400}
COCO = {"images": [{"width": 600, "height": 400}]}
LEFT_THIRD = [[0, 0], [200, 0], [200, 400], [0, 400]]
RIGHT_BOX = {"shape_type": "rectangle", "points": [[600, 400], [500, 0]]}


@pytest.mark.parametrize(
    "value",
    [
        LABELME | {"shapes": [{"points": LEFT_THIRD}, RIGHT_BOX]},
        COCO
        | {
            "annotations": [
                {"segmentation": [[0, 0, 200, 0, 200, 400, 0, 400]], "bbox": [0, 0, 200, 400]},
                {"segmentation": [], "bbox": [500, 0, 100, 400]},
            ]
        },
    ],
    ids=["LabelMe", "COCO"],
)
def test_rectangles_beside_polygons_count(tmp_path: Path, value: object) -> None:
    assert read_region(written(tmp_path / "roi.json", value)).area == pytest.approx(0.5, abs=0.002)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (LABELME | {"shapes": [{"points": LEFT_THIRD}, RIGHT_BOX | {"shape_type": "circle"}]}, "a shape is a circle"),
        (COCO | {"annotations": [{"segmentation": {"counts": "x", "size": [400, 600]}}]}, "a mask of run lengths"),
        ({"images": COCO["images"] * 2, "annotations": []}, "annotations of 2 images"),
    ],
    ids=["circle", "run lengths", "two images"],
)
def test_what_would_be_left_out_of_a_region_is_refused(tmp_path: Path, value: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_region(written(tmp_path / "roi.json", value))
