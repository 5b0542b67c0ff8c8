"""Files that Pillow decodes to something else without a word are read right or refused by one line that says why."""

import io
import os

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from spade_index.errors import InputError
from spade_index.images import find_images, load
from spade_index.images.files import MaskFile
from spade_index.images.mask_pixels import read_whole_mask
from spade_index.settings import Preprocessing

from helpers.decoding import read, refusal
from helpers.deep import png16, scaled, tiff
from helpers.tiny import image_file, random_image

PHOTO = random_image(3, (40, 24))
RGB = np.asarray(PHOTO)
GREY = np.asarray(PHOTO.convert("L"))


def encoded(image: Image.Image, file_format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


def damaged(png: bytes) -> bytes:
    """Change the pixels within a PNG file."""
    at = png.index(b"IDAT") + len(png) // 3
    return png[:at] + bytes(4) + png[at + 4 :]


def test_a_grey_heic_of_10_bits_is_not_cut_off_at_white():
    smooth = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None], 64, axis=0)
    buffer = io.BytesIO()
    pillow_heif.from_bytes("L;16", (64, 64), scaled(smooth, 16).tobytes()).save(buffer, quality=95)
    assert np.abs(read(buffer.getvalue())[..., 0].astype(int) - smooth).mean() < 2


def test_lab_of_bands_that_follow_each_other_is_refused():
    assert "interleave" in refusal(tiff(np.moveaxis(RGB, -1, 0), photometric="cielab", planarconfig="separate"))


@pytest.mark.parametrize("kind", ["P2", "P5", "P6"])
def test_an_anymap_with_values_over_its_white_is_refused(kind):
    values = scaled(RGB if kind == "P6" else GREY, 12)
    body = " ".join(map(str, values.ravel())).encode() if kind == "P2" else values.astype(">u2").tobytes()
    assert "0 to 1,000" in refusal(f"{kind} 40 24 1000\n".encode() + body)


@pytest.mark.parametrize("png", [encoded(PHOTO, "PNG"), png16(scaled(RGB, 16))], ids=["8 bits", "16 bits"])
def test_a_damaged_png_is_refused_as_photograph_and_as_mask(png, tmp_path):
    assert "checksum" in refusal(damaged(png))
    (tmp_path / "mask.png").write_bytes(damaged(png))
    with pytest.raises(InputError, match="checksum"):
        read_whole_mask(MaskFile.at(tmp_path / "mask.png"))


def test_an_image_of_transparent_pixels_alone_is_named():
    pixels = np.dstack([RGB, np.zeros_like(GREY)])
    for value in (0, 255):
        pixels[3, 5, 3] = value
        file = image_file("x.png", encoded(Image.fromarray(pixels), "PNG"))
        notice = load(file, Preprocessing(input_size=(16, 16))).notice
        assert (notice is not None and "/x.png: all of it is transparent" in notice) == (value == 0)


def test_what_cannot_be_read_is_called_what_it_is():
    jpeg = encoded(PHOTO, "JPEG")
    at = jpeg.index(b"\xff\xc0") + 4
    assert "12 bits" in refusal(jpeg[:at] + b"\x0c" + jpeg[at + 1 :])
    assert "big-endian" in refusal(tiff(GREY, byteorder=">", bigtiff=True))
    assert "empty" in refusal(b"")
    assert np.array_equal(read(tiff(RGB, bigtiff=True)), RGB)


@pytest.mark.parametrize("planar", [False, True])
def test_tiles_and_planes_of_16_bits_are_read_right_or_refused(planar):
    values = scaled(RGB, 16)
    if planar:
        data = tiff(np.moveaxis(values, -1, 0), planarconfig="separate", tile=(16, 16))
        assert "interleave" in refusal(data, bits=16)
    else:
        assert np.array_equal(read(tiff(values, tile=(16, 16), compression="zlib"), bits=16), RGB)


def test_a_mask_that_is_a_pipe_is_an_error_not_a_wait(tmp_path):
    os.mkfifo(tmp_path / "mask.png")
    with pytest.raises(InputError, match="pipe"):
        read_whole_mask(MaskFile.at(tmp_path / "mask.png"))


def test_a_pipe_that_is_named_as_an_archive_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "photographs.zip")
    with pytest.raises(InputError, match="a pipe or a device"):
        list(find_images(tmp_path / "photographs.zip"))
