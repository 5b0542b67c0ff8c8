"""Every image file is decoded to upright 8-bit RGB, or refused by an ImageError that names it in one line."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from torchvision.transforms import v2

from spade_index.errors import ImageError
from spade_index.images import covered, decode, preprocess
from spade_index.images.decode import MAX_PIXELS
from spade_index.settings import Preprocessing

from helpers.decoding import read, refusal
from helpers.deep import png16, tiff
from helpers.tiny import random_image
from helpers.uploads import encoded

# Outside of tests the package silences what Pillow has to say.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]

PHOTO = random_image(3, (40, 24))


def claiming(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes whose header claims this size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


REAL = {
    "png": encoded(PHOTO, "PNG"),
    "jpeg": encoded(PHOTO, "JPEG", quality=80),
    "bmp": encoded(PHOTO, "BMP"),
    "tiff": encoded(PHOTO, "TIFF", compression="tiff_lzw"),
    "webp": encoded(PHOTO, "WEBP"),
    "palette": encoded(PHOTO.convert("P"), "PNG"),
    "gif": encoded(PHOTO.convert("P"), "GIF"),
    "ppm": encoded(PHOTO, "PPM"),
    "pgm of text": b"P2\n3 2\n900\n" + b"1 20 300 400 5 600",
    "jpeg 2000": encoded(PHOTO, "JPEG2000"),
    "avif": encoded(PHOTO, "AVIF", quality=80),
    "rgb16 png": png16(np.asarray(PHOTO).astype(np.uint16) * 16),
    "rgb16 tiff": tiff(np.asarray(PHOTO).astype(np.uint16) * 16, compression="zlib"),
    "float": tiff(np.asarray(PHOTO.convert("L")).astype(np.float32)),
    "profile": encoded(PHOTO, "PNG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
    "grey16": encoded(Image.fromarray(np.arange(960, dtype=np.uint16).reshape(24, 40) * 60), "TIFF"),
}


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_are_exact(kind):
    assert np.array_equal(read(encoded(PHOTO, kind)), np.asarray(PHOTO))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_are_close(kind):
    smooth = PHOTO.resize((160, 96), Image.Resampling.BICUBIC)
    difference = read(encoded(smooth, kind, quality=95)).astype(int) - np.asarray(smooth)
    assert np.abs(difference).mean() < 4


def test_grey_and_one_bit_images():
    grey = PHOTO.convert("L")
    assert np.array_equal(read(encoded(grey, "PNG"))[..., 1], np.asarray(grey))
    bits = PHOTO.convert("1")
    assert np.array_equal(read(encoded(bits, "PNG"))[..., 2], np.asarray(bits) * 255)
    assert np.array_equal(read(encoded(bits, "TIFF", compression="group4"))[..., 0], np.asarray(bits) * 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_upper_eight(kind):
    wide = np.array([[0, 255, 256], [32768, 65279, 65535]], np.uint16)
    result = read(encoded(Image.fromarray(wide), kind))
    assert np.array_equal(result, np.repeat((wide >> 8)[..., None], 3, axis=2))


def test_transparency_is_composed_over_white():
    rgba = Image.new("RGBA", (3, 1))
    for x, alpha in enumerate((0, 128, 255)):
        rgba.putpixel((x, 0), (200, 0, 0, alpha))
    result = read(encoded(rgba, "PNG"))[0]
    assert result[0].tolist() == [255, 255, 255]
    assert np.allclose(result[1], [227, 127, 127], atol=1)
    assert result[2].tolist() == [200, 0, 0]
    grey = Image.merge("LA", (Image.new("L", (1, 1), 50), Image.new("L", (1, 1), 0)))
    assert read(encoded(grey, "PNG"))[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_a_palette_with_transparency_is_composed_over_white(transparency):
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    result = read(encoded(palette, "PNG", transparency=transparency))
    assert result.tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_cmyk_becomes_rgb():
    result = read(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95))
    assert np.allclose(result, [255, 0, 0], atol=6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("wide", [False, True], ids=["rgb", "16 bits"])
def test_exif_rotations_are_undone(orientation, wide):
    upright = np.array([[10, 20, 30], [40, 50, 60]], np.uint16 if wide else np.uint8) << (8 if wide else 0)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    assert read(data)[..., 0].tolist() == [[10, 20, 30], [40, 50, 60]]


def test_floating_point_images_are_refused_with_advice():
    assert "save it with 8 or 16 bits" in refusal(encoded(Image.new("F", (4, 4), 0.5), "TIFF"))


@pytest.mark.parametrize(
    "data", [b"", b"just text, named like a photograph", b"\x89PNG\r\n\x1a\n", b"GIF89a" + bytes(50)]
)
def test_a_file_that_is_not_an_image_is_refused(data):
    assert "not an image" in refusal(data, "x.jpg")


def test_an_image_of_another_format_is_refused():
    assert "not an image" in refusal(encoded(PHOTO.convert("P"), "PCX"))


@pytest.mark.parametrize("kind", ["jpeg", "png", "bmp", "tiff", "webp"])
def test_truncated_files_are_refused(kind):
    refusal(REAL[kind][: len(REAL[kind]) // 2], f"x.{kind}")


@pytest.mark.parametrize("size", [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (MAX_PIXELS + 1, 1)])
def test_a_decompression_bomb_is_refused_before_decoding(size, monkeypatch):
    def load(*arguments: object, **options: object) -> None:
        raise AssertionError("the pixels were decoded")

    data = claiming(*size)
    assert len(data) < 2000
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    assert "limit" in refusal(data)


def test_a_large_image_within_the_limit_is_no_bomb():
    large = encoded(Image.new("1", (9_700, 9_700)), "PNG")
    assert decode(large, "x.png").size == (9_700, 9_700)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_altered_bytes_decode_or_are_refused(data):
    kind = data.draw(st.sampled_from(sorted(REAL)))
    original = bytearray(REAL[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        original[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    altered = bytes(original[: data.draw(st.integers(0, len(original)))] if data.draw(st.booleans()) else original)
    message = "x.png: "
    try:
        assert decode(altered, "x.png").mode == "RGB"
    except ImageError as error:
        message = str(error)
    assert message.startswith("x.png: ")
    assert "\n" not in message


def test_the_whole_image_is_resized_to_the_input():
    input_pixels, geometry = preprocess(PHOTO, Preprocessing(input_size=(32, 64)))
    assert input_pixels.shape == (32, 64, 3)
    assert geometry.box == (0, 0, 40, 24)
    assert geometry.to_original(0, 0) == (0, 0)
    assert geometry.to_original(1, 1) == (39, 23)


@pytest.mark.parametrize("size", [(300, 300), (400, 260), (257, 391), (1000, 90)])
def test_the_centre_crop_equals_torchvisions(size):
    image = random_image(5, size)
    how = Preprocessing(input_size=(224, 224), resize=256)
    input_pixels, _ = preprocess(image, how)
    theirs = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])(image)
    difference = np.abs(input_pixels.astype(int) - np.asarray(theirs).astype(int))
    # torchvision rounds the resized size and the crop to whole pixels.
    assert difference.mean() < 6


def test_bicubic_is_bicubic():
    result, _ = preprocess(PHOTO, Preprocessing(input_size=(64, 64), interpolation="bicubic"))
    assert np.array_equal(result, np.asarray(PHOTO.resize((64, 64), Image.Resampling.BICUBIC)))


@given(
    width=st.integers(1, 5000),
    height=st.integers(1, 5000),
    crop=st.booleans(),
    x=st.floats(0, 1),
    y=st.floats(0, 1),
)
def test_places_of_the_input_lie_in_the_original(width, height, crop, x, y):
    how = Preprocessing(input_size=(64, 96), resize=128 if crop else None)
    geometry = covered(width, height, how)
    left, top, right, bottom = geometry.box
    assert -1e-6 <= left < right <= width + 1e-6
    assert -1e-6 <= top < bottom <= height + 1e-6
    column, row = geometry.to_original(x, y)
    assert 0 <= column < width
    assert 0 <= row < height
    # Back at the input it is the same place, to within the pixel of the original.
    assert abs((column + 0.5 - left) / (right - left) - x) * (right - left) <= 1
    assert abs((row + 0.5 - top) / (bottom - top) - y) * (bottom - top) <= 1


def test_a_mark_in_the_original_is_found_where_the_input_shows_it():
    image = Image.new("RGB", (300, 200), "black")
    image.paste("white", (200, 120, 204, 124))
    for how in (Preprocessing(input_size=(112, 112)), Preprocessing(input_size=(112, 112), resize=128)):
        input_pixels, geometry = preprocess(image, how)
        row, column = divmod(int(input_pixels[..., 0].argmax()), 112)
        x, y = geometry.to_original((column + 0.5) / 112, (row + 0.5) / 112)
        assert abs(x - 202) <= 3
        assert abs(y - 122) <= 3


@pytest.mark.parametrize("width", [58, 116, 123, 225])
def test_a_crop_as_large_as_the_resized_edge_stays_inside(width: int) -> None:
    how = Preprocessing(input_size=(224, 224), resize=224)
    pixels, geometry = preprocess(Image.new("RGB", (width, 400)), how)
    assert pixels.shape == (224, 224, 3)
    assert geometry.box[0] >= 0
    assert geometry.box[2] <= width
