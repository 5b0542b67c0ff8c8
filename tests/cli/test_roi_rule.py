"""`--roi` as a rule: each image, of the gallery and of a query, has a region of interest of its own."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spade_index.gallery import Gallery

from helpers.cli_runs import BACKBONE, SIZE, copied, normal, objects, refused, run

WIDTH, HEIGHT = SIZE
RULE = ("--roi", "masks/{stem}.png")
PLAIN = (*BACKBONE, "--no-tune")


def part(folder: Path, name: str, seed: int, *, left: bool, hole: int | None = None) -> Path:
    """Write an image of the object with noise in its other half, and a mask of this half."""
    mask = Image.new("L", SIZE)
    mask.paste(255, (0, 0, WIDTH // 2, HEIGHT) if left else (WIDTH // 2, 0, WIDTH, HEIGHT))
    noise = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    image = Image.composite(normal(seed), Image.fromarray(noise), mask)
    if hole is not None:
        image.paste("white", (hole, 25, hole + 14, 40))
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    image.save(folder / name)
    mask.save(folder / "masks" / f"{Path(name).stem}.png")
    return folder / name


def parts(folder: Path, count: int, first: int = 0) -> Path:
    for number in range(first, first + count):
        part(folder, f"{number:02}.png", number, left=number % 2 == 0)
    return folder


def queries(folder: Path) -> Path:
    part(folder, "plain.png", 300, left=True)
    part(folder, "inside.png", 300, left=True, hole=12)
    part(folder, "outside.png", 300, left=True, hole=70)
    part(folder, "right.png", 300, left=False, hole=70)
    return folder


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated gallery of images with masks; its sources are beside it, in `parts`."""
    folder = tmp_path_factory.mktemp("rule")
    found = run("build", parts(folder / "parts", 12), folder / "g", *PLAIN, *RULE)
    assert "passed over: 12 regions of interest by --roi" in found.stderr
    run("calibrate", folder / "g", "--false-alarms", 0.1)
    return folder / "g"


def answers(*arguments: object) -> dict[str, dict]:
    return {answer["image"]: answer for answer in objects(run("query", *arguments, "--json"))}


def test_a_defect_counts_in_the_region_of_its_image_alone(limited: Path, tmp_path: Path) -> None:
    found = answers(limited, queries(tmp_path / "q"), "--out", tmp_path / "out")
    assert list(found) == ["inside.png", "outside.png", "plain.png", "right.png"]
    assert [found[f"{name}.png"]["anomalous"] for name in ("plain", "inside", "outside", "right")] == [
        False,
        True,
        False,
        True,
    ]
    assert found["outside.png"]["score"] == pytest.approx(found["plain.png"]["score"], rel=0.3)
    for name, answer in found.items():
        assert answer["score"] == answer["scores"]["map"]
        x = answer["evidence"]["pixel"][0]
        assert (x >= WIDTH / 2) == (name == "right.png")
        matched = answer["evidence"]["neighbour_pixel"][0]
        assert (matched >= WIDTH / 2) == (int(answer["evidence"]["neighbour"][:2]) % 2 == 1)
        with Image.open(answer["heatmap"]) as heatmap, Image.open(tmp_path / "q" / name) as image:
            drawn, plain = np.asarray(heatmap.convert("RGB")).astype(int), np.asarray(image).astype(int)
        outside = slice(0, WIDTH // 4) if name == "right.png" else slice(WIDTH * 3 // 4, WIDTH)
        assert abs(drawn[:, outside] - 0.65 * plain[:, outside]).max() < 3


def test_a_query_may_give_its_own_masks(limited: Path, tmp_path: Path) -> None:
    folder = queries(tmp_path / "q")
    expected = answers(limited, folder)
    shutil.move(folder / "masks", tmp_path / "elsewhere")
    said = run("query", limited, folder / "plain.png", status=1).stderr
    assert f"{folder / 'masks' / 'plain.png'}: is not there" in said
    assert "1 of the images could not be decoded" in said
    found = answers(limited, folder, "--roi", "../elsewhere/{stem}.png")
    assert {name: answer["score"] for name, answer in found.items()} == {n: a["score"] for n, a in expected.items()}
    found = answers(limited, folder / "plain.png", "--roi", tmp_path / "elsewhere" / "plain.png")
    assert found["plain.png"]["score"] == expected["plain.png"]["score"]
    whole = answers(limited, folder / "plain.png", "--roi", "none")
    assert whole["plain.png"]["score"] > 2 * expected["plain.png"]["score"]


def test_masks_are_no_images_even_where_they_are_not_used(limited: Path, tmp_path: Path) -> None:
    folder = queries(tmp_path / "q")
    assert list(answers(limited, folder, "--roi", "none")) == sorted(f.name for f in folder.glob("*.png"))


def test_images_without_a_mask_are_named_and_left_out(tmp_path: Path) -> None:
    folder = parts(tmp_path / "parts", 4)
    (folder / "masks" / "02.png").unlink()
    Image.new("L", (30, 30), 255).save(folder / "masks" / "03.png")
    found = run("build", folder, tmp_path / "g", *PLAIN, *RULE)
    assert "2 added, 2 could not be decoded" in found.stdout
    assert f"{folder / 'masks' / '02.png'}: is not there" in found.stderr
    assert "is 30x30 pixels, which is not the shape of its image" in found.stderr
    assert "02.png" in refused("build", folder, tmp_path / "strict", *PLAIN, *RULE, "--strict")


def test_the_rule_is_recorded_and_images_are_added_by_it(limited: Path, tmp_path: Path) -> None:
    gallery = copied(limited, tmp_path / "g")
    run("add", gallery, parts(tmp_path / "more", 3, first=40))
    part(tmp_path / "odd", "50.png", 50, left=True)
    shutil.move(tmp_path / "odd" / "masks", tmp_path / "odd" / "areas")
    run("add", gallery, tmp_path / "odd", "--roi", "areas/{stem}.png")
    with Gallery(gallery) as opened:
        areas = {row.id: opened.own_region(row.key).area for row in opened.images()}
    assert len(areas) == 16
    assert set(areas.values()) == {0.5}
    info = json.loads(run("info", gallery, "--json").stdout)
    assert info["calibration"]["images"] == 16
    assert info["region_of_interest"]["source"] == "a mask for each image, masks/{stem}.png"
    assert "masks/{stem}.png" in run("info", gallery).stdout
    assert "masks/{stem}.png" in run("roi", gallery).stdout
    assert run("verify", gallery).exit_code == 0


def test_a_build_carries_on_by_its_rule(limited: Path, tmp_path: Path) -> None:
    gallery, folder = copied(limited, tmp_path / "g"), limited.parent / "parts"
    assert "12 already there" in run("build", folder, gallery, *PLAIN, *RULE).stdout
    assert "12 already there" in run("build", folder, gallery, *PLAIN).stdout
    line = refused("build", folder, gallery, *PLAIN, "--roi", "other/{stem}.png")
    assert "has another rule of regions of interest (masks/{stem}.png)" in line
    line = refused("build", folder, gallery, *PLAIN, "--roi", folder / "masks" / "00.png")
    assert "has another region of interest (a mask for each image" in line


def test_a_gallery_takes_masks_later(limited: Path, tmp_path: Path) -> None:
    """And is then as if it had been built with them; a mask that is missing changes nothing."""
    folder = limited.parent / "parts"
    shutil.copytree(folder, tmp_path / "parts")
    gallery = tmp_path / "g"
    run("build", tmp_path / "parts", gallery, *PLAIN, "--exclude", "masks", "--prefix", "line/")
    run("calibrate", gallery, "--false-alarms", 0.1)
    aside = shutil.move(tmp_path / "parts" / "masks" / "03.png", tmp_path / "aside.png")
    assert "masks/03.png: is not there: nothing was changed" in refused("roi", gallery, RULE[1])
    with Gallery(gallery) as opened:
        assert not opened.is_limited
    shutil.move(aside, tmp_path / "parts" / "masks" / "03.png")
    run("roi", gallery, RULE[1])
    folder = queries(tmp_path / "q")
    found, expected = answers(gallery, folder), answers(limited, folder)
    assert {n: (a["score"], a["p_value"]) for n, a in found.items()} == {
        n: (a["score"], a["p_value"]) for n, a in expected.items()
    }
    run("roi", gallery, "none")
    assert "has no region of interest" in refused("query", gallery, folder / "plain.png", *RULE)
    assert "no region of interest" in run("roi", gallery).stdout


def test_masks_that_change_need_another_calibration(limited: Path, tmp_path: Path) -> None:
    gallery = copied(limited, tmp_path / "g")
    folder = limited.parent / "parts"
    before = json.loads(run("info", gallery, "--json").stdout)
    said = run("roi", gallery, str(folder / "masks" / "{stem}.png"), "--no-calibrate").stdout
    assert "not calibrated for this region" in said
    after = json.loads(run("info", gallery, "--json").stdout)
    assert after["region_of_interest"]["digest"] != before["region_of_interest"]["digest"]
    assert after["calibration"] is None


def test_an_evaluation_takes_masks_below_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for number in range(10):
        part(folder / "train" / "good", f"{number}.png", number, left=number % 2 == 0)
    for number in range(4):
        part(folder / "test" / "good", f"{number}.png", 100 + number, left=number % 2 == 0)
        part(
            folder / "test" / "hole",
            f"{number}.png",
            200 + number,
            left=number % 2 == 0,
            hole=12 if number % 2 == 0 else 70,
        )
        mask = Image.new("L", SIZE)
        x = 12 if number % 2 == 0 else 70
        mask.paste(255, (x, 25, x + 14, 40))
        (folder / "ground_truth" / "hole").mkdir(parents=True, exist_ok=True)
        mask.save(folder / "ground_truth" / "hole" / f"{number}_mask.png")
    for split in ("train/good", "test/good", "test/hole"):
        (folder / "areas" / split).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder / split / "masks", folder / "areas" / split)
    rule = ("--roi", "areas/{parent}/{stem}.png")
    run("evaluate", folder, *PLAIN, *rule, "--json", tmp_path / "in.json", "--report", tmp_path / "r.html")
    run("evaluate", folder, *PLAIN, "--json", tmp_path / "all.json")
    one, other = (json.loads((tmp_path / name).read_text()) for name in ("in.json", "all.json"))
    assert one["image_roc_auc"] == 1
    assert one["pixel_roc_auc"] != other["pixel_roc_auc"]
    for number in range(4):  # marks in the ground truth that are outside change nothing
        file = folder / "ground_truth" / "hole" / f"{number}_mask.png"
        with Image.open(file) as picture:
            mask = picture.copy()
        mask.paste(255, (60, 0, 90, 70) if number % 2 == 0 else (0, 0, 30, 70))
        mask.save(file)
    run("evaluate", folder, *PLAIN, *rule, "--json", tmp_path / "more.json")
    more = json.loads((tmp_path / "more.json").read_text())
    for figure in ("pixel_roc_auc", "pixel_average_precision", "pixel_f1_max", "pro", "pro_05"):
        assert one[figure] == more[figure] > 0.3
    run("build", folder / "train" / "good", tmp_path / "g", *PLAIN, "--roi", "../../areas/train/good/{stem}.png")
    run("evaluate", folder, "--gallery", tmp_path / "g", *rule, "--json", tmp_path / "given.json")
    assert json.loads((tmp_path / "given.json").read_text())["pixel_roc_auc"] == one["pixel_roc_auc"]
    run("build", folder / "train" / "good", tmp_path / "plain", *PLAIN)
    assert "have no regions of interest" in refused("evaluate", folder, "--gallery", tmp_path / "plain", *rule)


def test_tiles_see_their_part_of_the_mask_of_their_picture(tmp_path: Path) -> None:
    few = ("--gallery-neighbours", 5)  # with the usual 50, it takes four times as long
    tiles = (*PLAIN, "--tile", "32", "--overlap", "0", "--input-size", "32")
    run("build", parts(tmp_path / "parts", 10), tmp_path / "g", *tiles, *RULE)
    run("calibrate", tmp_path / "g", *few, "--false-alarms", 0.1)
    found = answers(tmp_path / "g", queries(tmp_path / "q"), *few, "--out", tmp_path / "out")
    assert found["outside.png"]["score"] == pytest.approx(found["plain.png"]["score"], rel=0.3)
    assert min(found[name]["score"] for name in ("inside.png", "right.png")) > 2 * found["plain.png"]["score"]
    for name, answer in found.items():
        assert (answer["evidence"]["pixel"][0] >= WIDTH / 2 + 2) == (name == "right.png")
    gallery = tmp_path / "late"
    run("build", tmp_path / "parts", gallery, *tiles, "--exclude", "masks")
    run("roi", gallery, RULE[1])
    run("calibrate", gallery, *few, "--false-alarms", 0.1)
    late = answers(gallery, tmp_path / "q", *few)
    assert {n: a["score"] for n, a in late.items()} == {n: a["score"] for n, a in found.items()}


def test_what_is_no_rule_is_refused(limited: Path, tmp_path: Path) -> None:
    folder = queries(tmp_path / "q")
    assert "{stm} stands for nothing: use {stem}, {name}, {parent}" in refused(
        "build", folder, tmp_path / "g", *PLAIN, "--roi", "masks/{stm}.png"
    )
    assert not (tmp_path / "g").exists()
    assert "mask.png: is not there" in refused("query", limited, folder, "--roi", "mask.png")
    line = refused("build", folder, tmp_path / "g", *PLAIN, "--roi", "{parent}/{name}")
    assert "no images in it" in line
    assert "regions of interest by --roi" in line
