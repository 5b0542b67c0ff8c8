"""Masks: what is not zero is defective, in every format, resized, cropped and turned as their images are."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from spade_index.errors import InputError
from spade_index.images import covered
from spade_index.images.decode import ORIENTATION
from spade_index.images.mask_pixels import orientation_of
from spade_index.images.masks import read_marks, read_mask, require_fit
from spade_index.settings import Preprocessing

from helpers.deep import tiff

SIZE = (6, 4)  # width, height
PLAIN = covered(*SIZE, Preprocessing(input_size=(16, 16)))
DEFECT = np.zeros(SIZE[::-1], bool)
DEFECT[1, 2:5] = True  # not the same in any orientation
DEFECT[2, 2] = True


def levels(value: int, dtype: type = np.uint8) -> np.ndarray:
    return np.where(DEFECT, value, 0).astype(dtype)


def coloured(colour: tuple[int, ...]) -> np.ndarray:
    return np.where(DEFECT[..., None], colour, 0).astype(np.uint8)


def palette() -> Image.Image:
    image = Image.fromarray(levels(3), "P")
    image.putpalette([0, 0, 0, 9, 9, 9, 8, 8, 8, 0, 0, 0])  # index 3 is black, too
    return image


MASKS = {
    "m.png": Image.fromarray(levels(255)),
    "one.png": Image.fromarray(levels(1)),
    "hundred.png": Image.fromarray(levels(100)),
    "bits.png": Image.fromarray(DEFECT),
    "wide.png": Image.fromarray(levels(1, np.uint16)),
    "wide.tif": Image.fromarray(levels(40_000, np.uint16)),
    "int.tif": Image.fromarray(levels(-1, np.int32)),
    "float.tiff": Image.fromarray(levels(1, np.float32) / 1000),
    "blue.bmp": Image.fromarray(coloured((0, 0, 2))),
    "red.webp": Image.fromarray(coloured((9, 0, 0))),
    "capital.PNG": Image.fromarray(levels(255)),
    "m.BMP": Image.fromarray(levels(255)),
    "m.gif": Image.fromarray(levels(255)),
    "m.pgm": Image.fromarray(levels(1)),
    "palette.png": palette(),
    "grey_palette.png": Image.fromarray(levels(7)).convert("P"),
    "opaque.png": Image.fromarray(levels(9)).convert("LA"),
    "painted.png": Image.fromarray(coloured((0, 0, 0, 200))),  # black, on a transparent page
    "hidden.png": Image.fromarray(np.dstack([np.full((*DEFECT.shape, 3), 77, np.uint8), levels(255)])),
    "colour_on_black.png": Image.fromarray(coloured((0, 200, 0))).convert("RGBA"),
}


@pytest.mark.parametrize("name", MASKS)
def test_what_is_not_zero_is_defective(tmp_path, name):
    MASKS[name].save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    assert np.array_equal(read_mask(tmp_path / name, PLAIN, DEFECT.shape), DEFECT)


WIDE = np.where(DEFECT[..., None], (0, 1, 0), 0).astype(np.uint16)
OPEN = np.where(DEFECT, 0xFFFF, 0).astype(np.uint16)
DEEP = {  # as scientific software writes it
    "colours": tiff(WIDE, photometric="rgb"),
    "alpha": tiff(np.dstack([0 * WIDE, OPEN]), photometric="rgb", extrasamples=["unassalpha"]),
    "big-endian": tiff(WIDE[..., 1], byteorder=">"),
    "unsigned": tiff(WIDE[..., 1].astype(np.uint32)),
    "signed": tiff(-WIDE[..., 1].astype(np.int16)),
    "bool, white is zero": tiff(DEFECT, photometric="miniswhite"),  # the default of tifffile
    "white is zero": tiff(levels(200), photometric="miniswhite"),
    "wide, white is zero": tiff(WIDE[..., 1], photometric="miniswhite"),
}


@pytest.mark.parametrize("name", DEEP)
def test_stored_values_decide(tmp_path, name):
    (tmp_path / "m.tif").write_bytes(DEEP[name])
    assert np.array_equal(read_mask(tmp_path / "m.tif", PLAIN, DEFECT.shape), DEFECT)
    strange = read_marks(tmp_path / "m.tif", PLAIN, DEFECT.shape)[0].strange()
    assert (strange is not None) == ("white" in name)


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_lossy_formats_are_cut_at_half_of_their_highest_value(tmp_path, suffix):
    mask = np.zeros((64, 64), np.uint8)
    mask[20:43, 11:50] = 255
    Image.fromarray(mask).save(tmp_path / f"m.{suffix}", quality=60)
    found = read_mask(tmp_path / f"m.{suffix}", covered(64, 64, Preprocessing(input_size=(16, 16))), (64, 64))
    assert (found != (mask > 0)).mean() < 0.005


def test_an_opaque_black_mask_marks_nothing(tmp_path):
    Image.new("RGBA", SIZE, "black").save(tmp_path / "m.png")
    assert not read_mask(tmp_path / "m.png", PLAIN, DEFECT.shape).any()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_of_the_stored_size_is_turned_with_its_image(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = Image.fromarray(levels(255))
    stored.save(tmp_path / "image.png", exif=exif)
    stored.save(tmp_path / "mask.png")
    with Image.open(tmp_path / "image.png") as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    geometry = covered(upright.shape[1], upright.shape[0], Preprocessing(input_size=(16, 16)))
    found = orientation_of((tmp_path / "image.png").read_bytes())
    assert found == orientation
    for name in ("mask.png", "image.png"):  # without an orientation of its own, and with one
        mask = read_mask(tmp_path / name, geometry, upright.shape, found)
        assert np.array_equal(mask, upright > 0), name


def test_an_upright_mask_of_a_turned_image_stays(tmp_path):
    Image.fromarray(levels(255)).save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png", PLAIN, DEFECT.shape, orientation=6), DEFECT)


def test_a_folder_of_masks_is_one_mask(tmp_path):
    for row, name in ((1, "000.png"), (2, "001.png")):
        part = np.zeros_like(DEFECT)
        part[row] = DEFECT[row]
        Image.fromarray(np.where(part, 250 + row, 0).astype(np.uint8)).save(tmp_path / name)
    assert np.array_equal(read_mask(tmp_path, PLAIN, DEFECT.shape), DEFECT)
    marks = read_marks(tmp_path, PLAIN, DEFECT.shape)
    assert [(marked.value, marked.area) for marked in marks] == [(251, 3), (252, 1)]


@pytest.mark.parametrize(
    ("value", "words"), [(0, "marks no pixel"), (255, "marks every pixel")], ids=["nothing", "everything"]
)
def test_a_mask_of_nothing_or_everything_is_named(tmp_path, value, words):
    Image.new("L", SIZE, value).save(tmp_path / "m.png")
    (marked,) = read_marks(tmp_path / "m.png", PLAIN, DEFECT.shape)
    assert words in marked.strange()
    assert str(tmp_path / "m.png") in marked.strange()


def test_a_defect_that_resizing_loses_is_named(tmp_path):
    image = np.zeros((100, 100), np.uint8)
    image[2, 2] = 255
    Image.fromarray(image).save(tmp_path / "m.png")
    (marked,) = read_marks(tmp_path / "m.png", covered(100, 100, Preprocessing(input_size=(16, 16))), (7, 7))
    assert "nothing of its mark (1 pixels) is left at 7x7" in marked.strange()


def test_a_palette_that_looks_inverted_is_named(tmp_path):
    image = Image.fromarray(levels(1), "P")
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(tmp_path / "m.png")
    (marked,) = read_marks(tmp_path / "m.png", PLAIN, DEFECT.shape)
    assert np.array_equal(marked.pixels, DEFECT)
    assert "inverted" in marked.strange()
    Image.fromarray(levels(255)).save(tmp_path / "usual.png")
    assert read_marks(tmp_path / "usual.png", PLAIN, DEFECT.shape)[0].strange() is None


@pytest.mark.parametrize("contents", ["another size", "no image", "no file"])
def test_a_mask_that_does_not_fit_is_named(tmp_path, contents):
    path = tmp_path / "m.png"
    if contents == "another size":
        Image.new("L", (10, 10)).save(path)
    elif contents == "no image":
        path.write_bytes(b"not a picture")
    Image.new("L", SIZE).save(tmp_path / "image.png")
    for check in (lambda: read_mask(path, PLAIN, DEFECT.shape), lambda: require_fit(path, tmp_path / "image.png")):
        with pytest.raises(InputError) as raised:
            check()
        assert str(path) in str(raised.value)
        if contents == "another size":
            assert "10x10" in str(raised.value)
            assert "6x4" in str(raised.value)


def test_a_mask_that_fits_is_accepted_by_its_head(tmp_path):
    Image.new("L", SIZE).save(tmp_path / "m.png")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for size in (SIZE, SIZE[::-1]):  # as stored, and upright
        Image.new("L", size).save(tmp_path / "image.png", exif=exif)
        require_fit(tmp_path / "m.png", tmp_path / "image.png")
    (tmp_path / "image.png").write_bytes(b"not a picture")  # whoever decodes it says so
    require_fit(tmp_path / "m.png", tmp_path / "image.png")


def test_a_mask_is_cropped_as_its_image_is(tmp_path):
    mask = np.zeros((100, 200), np.uint8)
    mask[10:90, 60:140] = 255  # what is left of the crop: 80 of 100 pixels, from the middle
    Image.fromarray(mask).save(tmp_path / "m.png")
    geometry = covered(200, 100, Preprocessing(input_size=(64, 64), resize=80))
    assert geometry.box == (60, 10, 140, 90)
    assert read_mask(tmp_path / "m.png", geometry, (64, 64)).all()
    mask[10, 60] = 0
    Image.fromarray(mask).save(tmp_path / "m.png")
    cropped = read_mask(tmp_path / "m.png", geometry, (80, 80))
    assert not cropped[0, 0]
    assert cropped.sum() == 80 * 80 - 1


def test_an_image_without_a_mask_has_no_defective_pixel():
    geometry = covered(6, 4, Preprocessing(input_size=(16, 16)))
    assert not read_mask(None, geometry, (16, 16)).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_mask_of_values_that_are_not_numbers_is_named(tmp_path, value):
    Image.fromarray(np.where(levels(1, np.float32) > 0, value, 0).astype(np.float32)).save(tmp_path / "m.tiff")
    height, width = levels(1).shape
    geometry = covered(width, height, Preprocessing(input_size=(16, 16)))
    with pytest.raises(InputError, match=r"m\.tiff: some of its values are NaN or infinite"):
        read_mask(tmp_path / "m.tiff", geometry, (16, 16))
