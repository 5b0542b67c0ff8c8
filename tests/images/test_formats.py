"""Formats, bands and colour profiles of image files: read by a stated rule, or refused by one line."""

import sys

import numpy as np
import pytest
from PIL import Image, ImageCms

from spade_index.errors import ImageError
from spade_index.images import decode, find_images
from spade_index.images.formats import _heif
from spade_index.images.ranges import find_bits

from helpers.decoding import read, refusal
from helpers.deep import png16, scaled, tiff
from helpers.tiny import random_image
from helpers.uploads import encoded

PHOTO = random_image(3, (40, 24))
RGB = np.asarray(PHOTO)
GREY = np.asarray(PHOTO.convert("L"))
SMOOTH = PHOTO.resize((160, 96), Image.Resampling.BICUBIC)


def pnm(kind: str, width: int, height: int, most: int | None, body: bytes) -> bytes:
    said = "" if most is None else f"{most}\n"
    return f"{kind}\n# a comment\n{width} {height}\n{said}".encode() + body


# Formats


@pytest.mark.parametrize(("kind", "options"), [("PPM", {}), ("JPEG2000", {}), ("JPEG2000", {"no_jp2": True})])
def test_lossless_formats_are_exact(kind, options):
    assert np.array_equal(read(encoded(PHOTO, kind, **options)), RGB)
    assert np.array_equal(read(encoded(PHOTO.convert("L"), kind, **options))[..., 0], GREY)


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_lossy_formats_are_close_and_upright(kind):
    _heif()
    assert np.abs(read(encoded(SMOOTH, kind, quality=95)).astype(int) - np.asarray(SMOOTH)).mean() < 4
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = read(encoded(SMOOTH.rotate(90, expand=True), kind, quality=95, exif=exif.tobytes()))
    assert np.abs(turned.astype(int) - np.asarray(SMOOTH)).mean() < 4


def test_the_first_frame_of_a_gif_is_read():
    first, second = PHOTO.quantize(64), Image.new("P", PHOTO.size)
    data = encoded(first, "GIF", save_all=True, append_images=[second])
    assert np.array_equal(read(data), np.asarray(first.convert("RGB")))


def test_heic_without_its_decoder_names_the_remedy(monkeypatch):
    data = encoded(SMOOTH, "HEIF") if _heif() else b""
    _heif.cache_clear()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    try:
        assert "pip install 'spade_index[heic]'" in refusal(data)
    finally:
        _heif.cache_clear()


@pytest.mark.parametrize("most", [7, 200, 255, 256, 1023, 4095, 65_534])
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("pixels", [GREY, RGB], ids=["grey", "rgb"])
def test_an_anymap_is_read_by_the_white_that_it_states(pixels, plain, most):
    values = np.rint(pixels / 255 * most).astype(int)
    expected = values >> (most.bit_length() - 8) if most in (1023, 4095) else np.rint(values / most * 255)
    kind = f"P{2 + (pixels.ndim == 3) + (0 if plain else 3)}"
    body = " ".join(map(str, values.flat)).encode() if plain else values.astype(">u2" if most > 255 else "u1").tobytes()
    data = pnm(kind, 40, 24, most, body)
    for how in ({}, {"bits": 10}, {"pixel_range": (0, 7)}):
        found = read(data, **how)
        assert np.array_equal(found if pixels.ndim == 3 else found[..., 0], expected)


@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
def test_an_anymap_of_16_bits_has_the_range_of_the_gallery(kind, tmp_path):
    pixels = RGB if kind in ("P3", "P6") else GREY
    values = scaled(pixels, 12)
    body = values.astype(">u2").tobytes() if kind in ("P5", "P6") else " ".join(map(str, values.flat)).encode()
    (tmp_path / "x.ppm").write_bytes(pnm(kind, 40, 24, 65535, body))
    assert find_bits(find_images(tmp_path)).bits == 12
    found = read((tmp_path / "x.ppm").read_bytes(), bits=12)
    assert np.array_equal(found, np.broadcast_to(pixels if pixels.ndim == 3 else pixels[..., None], (24, 40, 3)))


def test_bitmaps_of_one_bit():
    bits = GREY > 128
    packed = np.packbits(~bits, axis=1).tobytes()
    assert np.array_equal(read(pnm("P4", 40, 24, None, packed))[..., 1], bits * 255)
    assert np.array_equal(
        read(pnm("P1", 40, 24, None, "".join("01"[not bit] for bit in bits.flat).encode()))[..., 1], bits * 255
    )


@pytest.mark.parametrize(
    "data",
    [
        pnm("P5", 4, 4, 1000, bytes(31)),
        pnm("P2", 2, 2, 9, b"1 2 3"),
        pnm("P2", 2, 2, 9, b"1 2 3 10"),
        pnm("P2", 2, 2, 9, b"1 2 -3 1"),
        pnm("P1", 2, 2, None, b"01 0"),
        pnm("P0CMYK", 2, 2, 255, bytes(16)),
        pnm("PyRGBA", 2, 2, 255, bytes(16)),
    ],
)
def test_incomplete_and_strange_anymaps_are_refused(data):
    refusal(data)


def test_floating_point_anymaps_need_a_range():
    data = b"Pf\n40 24\n-1.0\n" + (GREY[::-1] / 255).astype("<f4").tobytes()
    assert "--pixel-range" in refusal(data)
    assert np.array_equal(read(data, pixel_range=(0, 1))[..., 0], GREY)


@pytest.mark.parametrize("bits", [12, 16])
def test_jpeg_2000_of_16_bits(bits, tmp_path):
    (tmp_path / "x.jp2").write_bytes(encoded(Image.fromarray(scaled(GREY, bits)), "JPEG2000"))
    assert find_bits(find_images(tmp_path)).bits == bits
    assert np.array_equal(read((tmp_path / "x.jp2").read_bytes(), bits=bits)[..., 0], GREY)


def test_formats_that_take_much_memory_are_limited_to_half():
    for data in (encoded(PHOTO, "JPEG2000"), encoded(PHOTO, "AVIF"), png16(scaled(RGB, 12))):
        assert decode(data, "x", 2 * 40 * 24).size == (40, 24)
        with pytest.raises(ImageError, match="over the limit"):
            decode(data, "x", 2 * 40 * 24 - 1)


# Bands


def test_alpha_is_what_the_file_calls_alpha():
    for bands, extra in ((2, 2), (4, 2)):
        pixels = np.dstack([*([GREY] * (bands - 1)), np.full_like(GREY, 0)])
        data = tiff(
            pixels, photometric="rgb" if bands == 4 else "minisblack", extrasamples=[extra], planarconfig="contig"
        )
        assert (read(data) == 255).all()
    for mode in ("LA", "RGBA"):
        assert (read(encoded(Image.new(mode, (8, 8)), "JPEG2000")) == 255).all()


@pytest.mark.parametrize("type", [np.uint8, np.uint16])
@pytest.mark.parametrize("bands", [2, 4, 5, 6, 7, 12])
def test_bands_without_a_meaning_are_refused(bands, type):
    pixels = np.dstack([GREY.astype(type)] * bands)
    for photometric in ("rgb", "minisblack"):
        colours = 3 if photometric == "rgb" else 1
        if bands > colours:
            data = tiff(pixels, photometric=photometric, extrasamples=[0] * (bands - colours), planarconfig="contig")
            assert f"{bands} bands" in refusal(data, bits=16)


def test_four_bands_of_a_tiff_that_says_nothing_about_the_fourth_are_refused():
    data = bytearray(tiff(np.dstack([GREY] * 4), photometric="rgb", extrasamples=[2]))
    at = data.index((338).to_bytes(2, "little") + (3).to_bytes(2, "little"))
    data[at : at + 2] = (65_000).to_bytes(2, "little")  # another tag
    assert "4 bands" in refusal(bytes(data))


def test_bands_of_jpeg_2000_without_channel_definitions_are_refused():
    for mode in ("LA", "RGBA"):
        assert f"{len(mode)} bands" in refusal(encoded(Image.new(mode, (8, 8)), "JPEG2000", no_jp2=True))


def test_cmyk_is_read():
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "TIFF")
    assert np.allclose(read(data), [255, 0, 0], atol=6)
    deep = np.zeros((4, 4, 4), np.uint16)
    deep[..., 1:3] = 4095
    assert (read(tiff(deep, photometric="separated"), bits=12) == (255, 0, 0)).all()


@pytest.mark.parametrize("type", [np.float64, np.int64, np.uint64, np.complex64, np.float16])
def test_other_pixels_are_named(type):
    said = refusal(tiff(GREY.astype(type)))
    assert f"{np.dtype(type).itemsize * 8} bits" in said
    assert "save it with 8 or 16 bits" in said


# Profiles

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped() -> bytes:
    """Return an RGB profile whose red is sRGB's green, and the other way round."""
    profile = bytearray(SRGB.replace(b"s\0R\0G\0B", b"o\0t\0h\0r"))
    count = int.from_bytes(profile[128:132])
    for at in range(132, 132 + 12 * count, 12):
        tag = bytes(profile[at : at + 4])
        profile[at : at + 4] = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}.get(tag, tag)
    return bytes(profile)


RED = Image.new("RGB", (8, 8), (255, 0, 0))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "AVIF"])
def test_colours_are_converted_to_srgb(kind):
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind in ("AVIF", "JPEG") else {}
    found = read(encoded(RED, kind, icc_profile=swapped(), **options))
    assert np.abs(found.astype(int) - (0, 255, 0)).max() <= 4


def test_colours_beside_alpha_palettes_and_many_bits_are_converted():
    for image in (RED.convert("RGBA"), RED.quantize(2)):
        assert np.abs(read(encoded(image, "PNG", icc_profile=swapped())).astype(int) - (0, 255, 0)).max() <= 2
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert (read(encoded(clear, "PNG", icc_profile=swapped())) == 255).all()
    deep = tiff(scaled(np.asarray(RED), 12), iccprofile=swapped())
    assert np.abs(read(deep, bits=12).astype(int) - (0, 255, 0)).max() <= 2


@pytest.mark.parametrize("profile", [SRGB, b"no profile", swapped()[:200], swapped()[:-300], bytes(4000)])
def test_srgb_and_broken_profiles_change_nothing(profile):
    assert np.array_equal(read(encoded(PHOTO, "PNG", icc_profile=profile)), RGB)


def test_a_profile_of_another_kind_changes_nothing():
    assert np.array_equal(read(encoded(PHOTO.convert("L"), "PNG", icc_profile=swapped()))[..., 0], GREY)


def test_galleries_of_earlier_versions_ignore_profiles():
    assert np.array_equal(read(encoded(RED, "PNG", icc_profile=swapped()), profiles=False), np.asarray(RED))
