"""`build --roi` and `roi`: what is outside of a gallery's region of interest is neither scored nor matched."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from spade_index.gallery import Gallery
from spade_index.gallery.store.leave_one_out import LeaveOneOut
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.method.tuned import tuned_search

from helpers.cli_runs import BACKBONE, SIZE, copied, normal, objects, refused, run, write_normal

LEFT = {"polygons": [[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]}


def mask_of(folder: Path, name: str = "left.png") -> Path:
    """Write the mask of the left half of the object's images."""
    mask = Image.new("L", SIZE)
    ImageDraw.Draw(mask).rectangle((0, 0, SIZE[0] // 2 - 1, SIZE[1]), fill=255)
    mask.save(folder / name)
    return folder / name


def with_hole(path: Path, seed: int, x: int) -> Path:
    """Write an image of the object with a white hole at a column."""
    image = normal(seed)
    image.paste("white", (x, 25, x + 14, 40))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


@pytest.fixture(scope="module")
def interested(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated gallery whose region of interest is the left half."""
    folder = tmp_path_factory.mktemp("roi")
    run("build", dataset / "train" / "good", folder / "g", *BACKBONE, "--no-tune", "--roi", mask_of(folder))
    run("calibrate", folder / "g", "--false-alarms", 0.1)
    return folder / "g"


def test_a_defect_counts_inside_alone(interested: Path, tmp_path: Path) -> None:
    normal(300).save(tmp_path / "plain.png")
    with_hole(tmp_path / "inside.png", 300, 12)
    with_hole(tmp_path / "outside.png", 300, 70)
    found = {
        answer["image"]: answer
        for answer in objects(run("query", interested, tmp_path, "--json", "--out", tmp_path.parent / "out"))
    }
    plain, inside, outside = (found[f"{name}.png"] for name in ("plain", "inside", "outside"))
    assert inside["anomalous"]
    assert inside["regions"]
    assert not outside["anomalous"]
    assert outside["regions"] == []
    assert inside["score"] > 5 * plain["score"]
    assert outside["score"] < 2 * plain["score"]
    assert inside["p_value"] < outside["p_value"]
    for answer in found.values():
        assert answer["score"] == answer["scores"]["map"]
        assert answer["evidence"]["pixel"][0] <= SIZE[0] / 2 + 3  # half a cell at most
        for region in answer["regions"]:
            assert region["box"][0] + region["box"][2] <= SIZE[0] / 2 + 3


def test_what_is_outside_is_drawn_dimmed(interested: Path, tmp_path: Path) -> None:
    image = Image.new("RGB", SIZE, (200, 200, 200))
    image.save(tmp_path / "grey.png")
    (answer,) = objects(run("query", interested, tmp_path / "grey.png", "--json", "--out", tmp_path / "out"))
    with Image.open(answer["heatmap"]) as heatmap:
        pixels = np.asarray(heatmap.convert("RGB")).astype(int)
    outside = pixels[:, SIZE[0] * 5 // 8 :]
    assert (outside == 130).all()  # 200 under black of 35 %
    assert (pixels[:, : SIZE[0] * 3 // 8] != 130).any(2).all()
    scores = np.load(answer["score_map"])
    assert scores[:, 40:].max() <= scores[:, :24].min()


def test_masks_and_polygons_are_the_same_region(interested: Path, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "left.json").write_text(json.dumps(LEFT))
    run("build", dataset / "train" / "good", tmp_path / "g", *BACKBONE, "--no-tune", "--roi", tmp_path / "left.json")
    found = run("query", tmp_path / "g", dataset / "test" / "hole", "--json")
    expected = run("query", interested, dataset / "test" / "hole", "--json")
    for one, other in zip(objects(found), objects(expected), strict=True):
        assert one["score"] == other["score"]
        assert one["evidence"] == other["evidence"]


def test_a_bright_thing_outside_is_never_a_match(dataset: Path, tmp_path: Path) -> None:
    """It is in all normal images, outside; in the query it is inside, where no normal image has it."""
    for number in range(12):
        with_hole(tmp_path / "normal" / f"{number:02d}.png", number, 70)
    query = with_hole(tmp_path / "query.png", 300, 12)
    scores = {}
    for name, options in {"all": (), "left": ("--roi", mask_of(tmp_path))}.items():
        run("build", tmp_path / "normal", tmp_path / name, *BACKBONE, "--no-tune", *options)
        (answer,) = objects(run("query", tmp_path / name, query, "--json", "--image-score", "map"))
        scores[name] = answer["score"]
        if name == "left":
            assert answer["evidence"]["neighbour_pixel"][0] <= SIZE[0] / 2 + 3
    assert scores["left"] > scores["all"]


def test_the_region_is_set_changed_and_cleared(built: Path, tmp_path: Path) -> None:
    gallery = copied(built, tmp_path / "g")
    run("calibrate", gallery, "--false-alarms", 0.2)
    before = _calibration(gallery)
    assert "no region of interest" in run("roi", gallery).stdout
    mask = mask_of(tmp_path)
    said = run("roi", gallery, mask, "--show", tmp_path / "shown.png").stdout
    assert "region of interest: mask left.png, 50.0% of the picture" in said
    with Image.open(tmp_path / "shown.png") as shown:
        assert (np.asarray(shown)[:, :45] == 255).all()
        assert not np.asarray(shown)[:, 45:].any()
    within = _calibration(gallery)
    with Gallery(gallery) as opened:
        (inside, maps), (_, all_maps) = _scores(opened, within), _scores(opened, before)
        assert not maps[:, :, 8:].any()
        np.testing.assert_allclose(maps[:, :, :8], all_maps[:, :, :8], rtol=0.3)
        assert all_maps[:, :, 8:].all()
    assert len(inside) == 12
    assert within["search"] != before["search"]
    assert within["false_alarms"] == 0.2
    info = run("info", gallery).stdout
    assert "of interest: mask left.png" in info
    assert json.loads(run("info", gallery, "--json").stdout)["region_of_interest"]["area"] == 0.5
    run("roi", gallery, "none")
    assert _calibration(gallery) == before  # it is valid again
    assert run("verify", gallery).exit_code == 0


def _scores(gallery: Gallery, calibration: dict) -> tuple[np.ndarray, np.ndarray]:
    """Return the map scores and the maps [n, 16, 16] that a calibration stored."""
    found = LeaveOneOut.read(gallery.path / "calibrations" / calibration["file"])
    return found.scores["map"], found.maps_of(np.arange(len(found))).reshape(len(found), 16, 16)


def _calibration(gallery: Path) -> dict:
    return json.loads(run("info", gallery, "--json").stdout)["calibration"]


def test_an_old_calibration_is_never_applied(built: Path, tmp_path: Path) -> None:
    gallery = copied(built, tmp_path / "g")
    run("calibrate", gallery)
    said = run("roi", gallery, mask_of(tmp_path), "--no-calibrate").stdout
    assert f"`spade-index calibrate {gallery}` does that" in said
    normal(300).save(tmp_path / "part.png")
    (answer,) = objects(run("query", gallery, tmp_path / "part.png", "--json"))
    assert (answer["p_value"], answer["threshold"], answer["anomalous"]) == (None, None, None)
    run("calibrate", gallery)
    (answer,) = objects(run("query", gallery, tmp_path / "part.png", "--json"))
    assert answer["p_value"] > 0


def test_images_added_later_are_calibrated_within_the_region(interested: Path, tmp_path: Path) -> None:
    gallery = copied(interested, tmp_path / "g")
    (tmp_path / "more").mkdir()
    for number in range(3):
        normal(500 + number).save(tmp_path / "more" / f"more{number}.png")
    run("add", gallery, tmp_path / "more")
    info = json.loads(run("info", gallery, "--json").stdout)
    assert info["calibration"]["images"] == 15
    assert info["region_of_interest"]["source"] == "mask left.png"


@pytest.mark.usefixtures("quick_tuning")
def test_build_ends_with_tuning_within_the_region(tmp_path: Path) -> None:
    write_normal(tmp_path / "normal", 20)
    run("build", tmp_path / "normal", tmp_path / "g", *BACKBONE, "--roi", mask_of(tmp_path))
    info = json.loads(run("info", tmp_path / "g", "--json").stdout)
    assert info["tuned"]["search"].get("mapped_score") == "map"
    assert info["calibration"]["images"] == 20
    (answer,) = objects(run("query", tmp_path / "g", with_hole(tmp_path / "hole.png", 300, 12), "--json"))
    assert answer["p_value"] == pytest.approx(1 / 21)
    (answer,) = objects(run("query", tmp_path / "g", with_hole(tmp_path / "out.png", 301, 72), "--json"))
    assert answer["p_value"] > 1 / 21


def test_evaluation_counts_pixels_inside_alone(interested: Path, dataset: Path, tmp_path: Path) -> None:
    """A mask that marks more outside changes no figure of pixels; one that is all outside is named."""
    copy = Path(shutil.copytree(dataset, tmp_path / "set"))
    for folder in (copy / "test" / "hole", copy / "ground_truth" / "hole"):
        for file in folder.iterdir():
            with Image.open(file) as picture:
                moved = picture.convert("RGB") if folder.parent.name == "test" else picture.copy()
            moved.paste("white", (10, 20, 30, 50))
            moved.save(file)
    run("evaluate", copy, "--gallery", interested, "--json", tmp_path / "inside.json")
    for file in (copy / "ground_truth" / "hole").iterdir():
        with Image.open(file) as picture:
            mask = picture.copy()
        mask.paste("white", (60, 0, 90, 70))  # marks all sorts of things outside
        mask.save(file)
    run("evaluate", copy, "--gallery", interested, "--json", tmp_path / "more.json", "--report", tmp_path / "r.html")
    one, other = (json.loads((tmp_path / name).read_text()) for name in ("inside.json", "more.json"))
    for figure in ("pixel_roc_auc", "pixel_average_precision", "pixel_f1_max", "pro", "pro_05"):
        assert one[figure] == other[figure] > 0.5
    shutil.rmtree(copy / "ground_truth")
    for file in (copy / "test" / "hole").iterdir():
        with_hole(file, 400, 75)
        (copy / "ground_truth" / "hole").mkdir(parents=True, exist_ok=True)
        mask = Image.new("L", SIZE)
        mask.paste("white", (75, 25, 89, 40))
        mask.save(copy / "ground_truth" / "hole" / f"{file.stem}_mask.png")
    result = run("evaluate", copy, "--gallery", interested, "--json", tmp_path / "outside.json")
    assert "outside of the region of interest" in result.output


def test_an_evaluation_builds_its_gallery_within_a_region(interested: Path, dataset: Path, tmp_path: Path) -> None:
    region = ("--roi", mask_of(tmp_path))
    run("evaluate", dataset, *BACKBONE, "--no-tune", *region, "--json", tmp_path / "built.json")
    run("evaluate", dataset, "--gallery", interested, *region, "--json", tmp_path / "given.json")
    one, other = (json.loads((tmp_path / name).read_text()) for name in ("built.json", "given.json"))
    assert one["image_score"] == other["image_score"] == "map"
    assert one["pixel_roc_auc"] == pytest.approx(other["pixel_roc_auc"])
    assert one["image_roc_auc"] == other["image_roc_auc"]
    Image.new("L", SIZE, 255).save(tmp_path / "all.png")
    line = refused("evaluate", dataset, "--gallery", interested, "--roi", tmp_path / "all.png")
    assert "has not this region of interest" in line
    assert "is not there" in refused("evaluate", dataset, "--roi", tmp_path / "missing.png")


def test_regions_that_cannot_be_are_refused_before_work_begins(built: Path, dataset: Path, tmp_path: Path) -> None:
    Image.new("L", SIZE).save(tmp_path / "zero.png")
    (tmp_path / "text.png").write_text("text")
    (tmp_path / "nan.json").write_text('{"polygons": [[[0, 0], [NaN, 1], [1, 1]]]}')
    speck = np.zeros((800, 800), np.uint8)
    speck[400:403, 400:403] = 1
    Image.fromarray(speck).save(tmp_path / "speck.png")
    wanted = {
        "zero.png": "nothing of the picture is inside",
        "text.png": "not an image",
        "nan.json": "not finite",
        "missing.png": "is not there",
        "speck.png": "no cell of the grid",
    }
    for name, words in wanted.items():
        gallery = copied(built, tmp_path / f"g-{name}")
        assert words in refused("roi", gallery, tmp_path / name)
        with Gallery(gallery) as opened:
            assert opened.interest is None
        line = refused("build", dataset / "train" / "good", tmp_path / "new", *BACKBONE, "--roi", tmp_path / name)
        assert words in line
        if name != "speck.png":
            assert not (tmp_path / "new").exists()


def test_a_build_that_carries_on_keeps_to_its_region(interested: Path, dataset: Path, tmp_path: Path) -> None:
    gallery = copied(interested, tmp_path / "g")
    run("build", dataset / "train" / "good", gallery, *BACKBONE, "--no-tune", "--roi", mask_of(tmp_path))
    mask = Image.new("L", SIZE, 255)
    mask.save(tmp_path / "all.png")
    line = refused("build", dataset / "train" / "good", gallery, *BACKBONE, "--no-tune", "--roi", tmp_path / "all.png")
    assert "has another region of interest (mask left.png)" in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--maps", "never"), "maps `always`, not `never`"),
        (("--image-score", "pooled"), "image score `pooled`"),
        (("--mode", "per-level"), "separately"),
        (("--preset", "paper"), ""),
    ],
)
def test_options_that_do_not_go_with_a_region(
    interested: Path, dataset: Path, options: tuple[str, ...], words: str
) -> None:
    image = dataset / "test" / "good" / "000.png"
    if words:
        assert words in refused("query", interested, image, *options)
    else:
        assert "region of interest" in refused("query", interested, image, *options)


def test_a_region_that_lies_across_turned_pictures_is_said(dataset: Path, tmp_path: Path) -> None:
    across = tmp_path / "across.png"
    with Image.open(mask_of(tmp_path)) as mask:
        mask.transpose(Image.Transpose.ROTATE_90).save(across)
    said = f"(mask across.png) lies across 000.png of {SIZE[0]}x{SIZE[1]} pixels"
    good = dataset / "train" / "good"
    assert said in run("build", good, tmp_path / "g", *BACKBONE, "--no-tune", "--roi", across).stderr
    assert said in run("roi", tmp_path / "g", across).stderr
    assert "across" not in run("roi", tmp_path / "g", tmp_path / "left.png").stderr
    (tmp_path / "polygons.json").write_text(json.dumps(LEFT))
    assert "across" not in run("roi", tmp_path / "g", tmp_path / "polygons.json").stderr


def test_a_region_that_is_set_after_tuning_leaves_the_coarsest_level_out(tmp_path: Path) -> None:
    run("build", write_normal(tmp_path / "normal", 3), tmp_path / "g", *BACKBONE, "--no-tune")
    with GalleryWriter(tmp_path / "g") as writer:
        writer.set_tuned({"search": {"compared_levels": [1, 2, 3]}, "images": 3, "snapshot": 1})
        assert tuned_search(writer.gallery).compared_levels == (1, 2, 3)
    run("roi", tmp_path / "g", mask_of(tmp_path))
    with Gallery(tmp_path / "g") as gallery:
        assert tuned_search(gallery).compared_levels == (1, 2)
