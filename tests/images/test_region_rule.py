"""Rules that name a mask for each image, and masks that must have the size or shape of their images."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spade_index.errors import ImageError, InputError
from spade_index.images.decode import ORIENTATION, TURNS
from spade_index.images.find import find_images
from spade_index.images.loading import load_all
from spade_index.images.passed_over import PassedOver
from spade_index.images.region_rule import RegionRule, is_rule
from spade_index.settings import Preprocessing

HOW = Preprocessing(input_size=(32, 32))


@pytest.mark.parametrize(
    ("rule", "image", "expected"),
    [
        ("masks/{stem}.png", "a.jpg", "/root/masks/a.png"),
        ("masks/{parent}/{stem}.png", "x/y/a.b.jpg", "/root/masks/x/y/a.b.png"),
        ("masks/{parent}/{name}.png", "a.jpg", "/root/masks/a.jpg.png"),
        ("{parent}/{stem}_mask.png", "x/a.jpg", "/root/x/a_mask.png"),
        ("{parent}/../masks/{stem}.png", "good/a.jpg", "/root/masks/a.png"),
        ("/elsewhere/{stem}.png", "x/a.jpg", "/elsewhere/a.png"),
        ("masks/{stem}.png", "{name} with\nnew line ü.jpg", "/root/masks/{name} with\nnew line ü.png"),
        ("masks/{stem}.png", "stack.tif#2", "/root/masks/stack.png"),
        ("{parent}/mask.png", "x/a.jpg", "/root/x/mask.png"),
    ],
)
def test_a_rule_names_the_mask_of_an_image(rule: str, image: str, expected: str) -> None:
    assert RegionRule.of(rule).path_of(image, "/root") == expected


@pytest.mark.parametrize("text", ["masks/{stm}.png", "masks/{}.png", "masks/{stem:>3}.png", "masks/mask.png"])
def test_what_names_no_file_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        RegionRule.of(text)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rule": 1, "digest": ""}', '{"rule": "{x}", "digest": ""}'])
def test_a_damaged_rule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a rule"):
        RegionRule.from_json(text)


def test_a_file_with_braces_in_its_name_is_no_rule(tmp_path: Path) -> None:
    assert is_rule(str(tmp_path / "{stem}.png"))
    (tmp_path / "{stem}.png").touch()
    assert not is_rule(str(tmp_path / "{stem}.png"))


@pytest.mark.parametrize(
    ("rule", "masks"),
    [
        ("masks/{stem}.png", ["masks/a.png", "masks/b.png"]),
        ("{parent}/masks/{stem}.png", ["masks/a.png", "masks/b.png", "x/masks/a.png", "x/y/masks/a.png"]),
        ("{parent}/{stem}_mask.png", ["a_mask.png", "x/a_mask.png"]),
        ("{parent}/../masks/{stem}.png", ["masks/a.png", "masks/b.png", "x/masks/a.png", "x/y/masks/a.png"]),
        ("../elsewhere/{stem}.png", []),
    ],
)
def test_masks_below_a_folder_are_no_images_of_it(tmp_path: Path, rule: str, masks: list[str]) -> None:
    images = ["a.png", "b.png", "x/a.png", "a_mask.png", "x/a_mask.png"]
    for name in [*images, "masks/a.png", "masks/b.png", "x/masks/a.png", "x/y/masks/a.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    passed_over = PassedOver()
    every = {file.id for file in find_images(tmp_path)}
    found = {file.id for file in find_images(tmp_path, "", passed_over, rule=RegionRule.of(rule))}
    assert every - found == set(masks)
    assert str(passed_over) == (
        f"passed over: {len(masks)} regions of interest by --roi (--show-skipped names them)" if masks else ""
    )


def loaded(folder: Path, rule: str = "masks/{stem}.png", how: Preprocessing = HOW) -> tuple[list, list[ImageError]]:
    """Return the images of a folder, and the errors."""
    errors: list[ImageError] = []
    files = find_images(folder, rule=RegionRule.of(rule))
    return list(load_all(files, how, workers=1, ahead=4, on_error=errors.append)), errors


def written(folder: Path, size: tuple[int, int], mask: Image.Image, name: str = "a.png", **options: object) -> Path:
    """Write an image and its mask."""
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 150)).save(folder / name, **options)
    mask.save(folder / "masks" / f"{Path(name).stem}.png")
    return folder


def left(width: int, height: int, mode: str = "L") -> Image.Image:
    """Return a mask whose left half is inside."""
    mask = Image.new("L", (width, height))
    mask.paste(1, (0, 0, width // 2, height))
    return mask.convert(mode) if mode != "1" else mask.point(lambda value: 255 * value).convert("1")


@pytest.mark.parametrize(("width", "height"), [(60, 40), (30, 20), (15, 10), (120, 80), (59, 40)])
def test_a_mask_has_the_shape_of_its_image(tmp_path: Path, width: int, height: int) -> None:
    images, errors = loaded(written(tmp_path, (60, 40), left(width, height)))
    if (width, height) == (59, 40):
        assert not images
        assert "59x40 pixels, which is not the shape of its image of 60x40" in str(errors[0])
        return
    region = images[0].geometry.region
    assert region.source == "mask a.png"
    assert region.area == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
def test_what_is_not_zero_is_inside(tmp_path: Path, mode: str) -> None:
    mask = left(60, 40) if mode == "I;16" else left(60, 40, mode)
    if mode == "I;16":
        mask = Image.fromarray(np.asarray(mask).astype(np.uint16))
    images, errors = loaded(written(tmp_path, (60, 40), mask))
    assert not errors
    region = images[0].geometry.region.mask
    assert region[:, :30].all()
    assert not region[:, 30:].any()


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_mask_of_the_stored_pixels_is_turned_with_its_image(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    mask = left(60, 40)
    mask.paste(0, (0, 0, 10, 10))
    images, errors = loaded(written(tmp_path, (60, 40), mask, "a.jpg", exif=exif))
    assert not errors
    expected = np.asarray(mask.transpose(TURNS[orientation])) > 0
    np.testing.assert_array_equal(images[0].geometry.region.mask, expected)


def test_an_image_without_a_usable_mask_is_named_and_left_out(tmp_path: Path) -> None:
    written(tmp_path, (60, 40), left(60, 40))
    written(tmp_path, (60, 40), Image.new("L", (60, 40)), "empty.png")
    written(tmp_path, (60, 40), left(40, 60), "turned.png")
    written(tmp_path, (60, 40), left(60, 40), "missing.png")
    written(tmp_path, (60, 40), left(60, 40), "text.png")
    (tmp_path / "masks" / "missing.png").unlink()
    (tmp_path / "masks" / "text.png").write_text("text")
    images, errors = loaded(tmp_path)
    assert [image.id for image in images] == ["a.png"]
    lines = sorted(map(str, errors))
    for line, words in zip(
        lines,
        (
            "nothing of the picture is inside",
            f"{tmp_path / 'masks/missing.png'}: is not there",
            "not an image",
            "shape",
        ),
        strict=True,
    ):
        assert words in line
        assert "\n" not in line


def test_polygons_may_be_the_masks(tmp_path: Path) -> None:
    written(tmp_path, (60, 40), left(60, 40))
    written(tmp_path, (60, 40), left(60, 40), "b.png")
    square = [[0, 0], [30, 0], [30, 40], [0, 40]]
    (tmp_path / "drawn").mkdir()
    for name, size in (("a", [60, 40]), ("b", [40, 60])):
        (tmp_path / "drawn" / f"{name}.json").write_text(json.dumps({"polygons": [square], "size": size}))
    images, errors = loaded(tmp_path, "drawn/{stem}.json")
    assert [image.id for image in images] == ["a.png", "masks/a.png"]  # a picture, where it is no mask by the rule
    assert images[0].geometry.region.area == pytest.approx(0.5, abs=0.02)
    assert all("shape" in str(error) for error in errors)
    assert len(errors) == 2


def test_all_tiles_share_the_region_of_their_picture(tmp_path: Path) -> None:
    how = Preprocessing(input_size=(32, 32), tile=32)
    images, errors = loaded(written(tmp_path, (60, 40), left(60, 40)), how=how)
    assert not errors
    assert len(images) == 4
    assert len({id(image.geometry.region) for image in images}) == 1
