"""Pixels of more than 8 bits are read in their range, and never silently in another."""

import numpy as np
import pytest
from PIL import Image

from spade_index.errors import InputError
from spade_index.images import find_images, load
from spade_index.images.ranges import find_bits
from spade_index.settings import Preprocessing

from helpers.decoding import read, refusal
from helpers.deep import png16, scaled, tiff, write
from helpers.tiny import image_file, random_image

RGB = np.asarray(random_image(3, (40, 24)))
GREY = np.asarray(random_image(3, (40, 24)).convert("L"))
ENCODED = {
    "png": png16,
    "tiff": tiff,
    "big-endian tiff": lambda values: tiff(values, byteorder=">"),
    "compressed tiff": lambda values: tiff(values, compression="zlib", predictor=True),
}


def notice(data: bytes, **how: object) -> str | None:
    return load(image_file("x.png", data), Preprocessing(input_size=(16, 16), **how)).notice


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ENCODED)
@pytest.mark.parametrize("pixels", [GREY, RGB], ids=["grey", "rgb"])
def test_an_image_of_more_bits_equals_its_8_bits(pixels, kind, bits):
    found = read(ENCODED[kind](scaled(pixels, bits)), bits=bits)
    assert np.array_equal(found, pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2))


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_values_that_are_shifted_or_have_more_lower_bits_equal_8_bits(bits):
    shifted = RGB.astype(np.uint16) << (bits - 8)
    lower = np.random.default_rng(0).integers(0, 1 << (bits - 8), RGB.shape).astype(np.uint16)
    for values in (shifted, shifted | lower):
        assert np.array_equal(read(png16(values), bits=bits), RGB)


def test_a_file_of_8_bits_is_the_same_at_any_bits():
    for bits in (None, 8, 12, 16):
        assert np.array_equal(read(tiff(RGB), bits=bits), RGB)
    assert np.array_equal(read(tiff(RGB), pixel_range=(0, 4095)), RGB)


def test_without_bits_the_upper_eight_are_read():
    values = scaled(RGB, 16) ^ 0x55
    for data in (png16(values), tiff(values)):
        assert np.array_equal(read(data), values >> 8)


@pytest.mark.parametrize("pixels", [GREY, RGB], ids=["grey", "rgb"])
def test_an_image_beyond_the_gallerys_bits_is_refused_with_a_remedy(pixels):
    values = scaled(pixels, 12)
    message = refusal(png16(values), bits=10)
    assert f"values go up to {values.max():,}" in message
    assert "--bits 12" in message
    assert "10 bits (1,023 at most)" in message


def test_an_image_of_far_fewer_bits_than_the_gallerys_is_named():
    said = notice(png16(scaled(RGB, 12)), bits=16)
    assert said is not None
    assert said.startswith("/nowhere/x.png: ")
    assert "--bits 12" in said
    assert "--bits 12" in (notice(png16(scaled(GREY, 12))) or "")
    assert notice(png16(scaled(RGB, 12)), bits=12) is None
    assert "--bits 12" in (notice(png16(scaled(RGB, 12)), bits=14) or "")
    assert "--bits 12" in (notice(png16(scaled(RGB, 12))) or "")
    assert notice(tiff(RGB), bits=16) is None


@pytest.mark.parametrize("bands", [2, 4])
def test_alpha_of_16_bits_is_composed_over_white_whatever_the_bits_of_the_colours(bands):
    pixels = GREY[..., None] if bands == 2 else RGB
    for opaque in (4095, 65535):
        alpha = np.zeros((*GREY.shape, 1), np.uint16)
        alpha[:, :20] = opaque
        found = read(png16(np.concatenate([scaled(pixels, 12), alpha], axis=2)), bits=12)
        assert np.array_equal(found[:, :20], np.broadcast_to(pixels[:, :20], (24, 20, 3)))
        assert (found[:, 20:] == 255).all()


def test_white_may_be_zero():
    assert np.array_equal(read(tiff(4095 - scaled(GREY, 12), photometric="miniswhite"), bits=12)[..., 0], GREY)


KINDS = {"int8": np.int8, "int16": np.int16, "int32": np.int32, "uint32": np.uint32, "float32": np.float32}


@pytest.mark.parametrize("kind", KINDS)
def test_other_numbers_are_refused_without_an_explicit_range(kind):
    data = tiff(GREY.astype(KINDS[kind]))
    for how in ({}, {"bits": 8}, {"bits": 16}):
        assert "--pixel-range LOW HIGH" in refusal(data, **how)


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ("int8", -128, 127),
        ("int16", -30_000, 30_000),
        ("int32", -5, 100_000),
        ("uint32", 0, 4_294_967_295),
        ("float32", -0.5, 1.5),
        ("uint16", 100, 40_000),
    ],
)
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_an_explicit_range_is_applied(kind, low, high, photometric):
    if photometric == "miniswhite" and kind not in ("float32", "uint16"):
        return  # Pillow does not read them
    values = (low + GREY / 255.0 * (high - low)).astype(kind)
    values.flat[:2] = low, high
    expected = np.rint((values.astype(float) - low) / (high - low) * 255)
    if photometric == "miniswhite":
        expected = 255 - expected
    found = read(tiff(values, photometric=photometric), pixel_range=(low, high))[..., 2]
    assert np.abs(found - expected).max() <= (1 if kind == "float32" else 0)


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan, np.inf])
def test_values_outside_of_the_explicit_range_are_refused(value):
    values = (GREY / 255).astype(np.float32)
    values[3, 4] = value
    said = "are not numbers" if np.isnan(value) else "wider --pixel-range"
    assert said in refusal(tiff(values), pixel_range=(0, 1))


def test_bands_of_16_bits_stored_apart_are_refused():
    values = np.ascontiguousarray(scaled(RGB, 12).transpose(2, 0, 1))
    assert "interleave" in refusal(tiff(values, planarconfig="separate"), bits=12)


@pytest.mark.parametrize("exif", [False, True])
def test_both_bytes_are_turned_alike(exif):
    turned = np.ascontiguousarray(np.rot90(scaled(RGB, 12)))
    found = read(tiff(turned, extratags=[(274, 3, 1, 6, True)] if exif else ()), bits=12)
    assert np.array_equal(found, RGB if exif else np.rot90(RGB))


@pytest.mark.parametrize(("bits", "highest"), [(8, 255), (10, 1023), (12, 4000), (14, 4096), (16, 20_000)])
def test_the_bits_of_a_source_are_those_of_its_highest_value(tmp_path, bits, highest):
    random_image(1).save(tmp_path / "ordinary.png")
    (tmp_path / "damaged.png").write_bytes(b"no image")
    write(tmp_path / "dark.tif", np.full((8, 8), 3, np.uint16))
    write(tmp_path / "bright.png", np.full((8, 8), highest, np.uint16))
    assert find_bits(find_images(tmp_path)).bits == bits


def test_what_files_state_of_their_bits_counts(tmp_path):
    dark = np.full((8, 8), 900, np.uint16)
    (tmp_path / "a.png").write_bytes(png16(dark, significant=12))
    assert find_bits(find_images(tmp_path)).bits == 12
    (tmp_path / "a.png").write_bytes(tiff(dark, extratags=[(281, 3, 1, 16383, True)]))
    assert find_bits(find_images(tmp_path)).bits == 14
    (tmp_path / "a.png").write_bytes(tiff(dark, extratags=[(281, 3, 1, 65535, True)]))
    assert find_bits(find_images(tmp_path)).bits == 10


def test_a_source_of_no_known_range_is_refused_before_a_gallery_is_begun(tmp_path):
    write(tmp_path / "a.tif", np.zeros((8, 8), np.float32))
    with pytest.raises(InputError, match=r"a\.tif: .*--pixel-range"):
        find_bits(find_images(tmp_path))
    Image.new("L", (8, 8)).save(tmp_path / "b.png")
    assert find_bits(find_images(tmp_path)).bits == 8
