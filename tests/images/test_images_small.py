"""JPEG files: small ones without metadata are their own thumbnails."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from spade_index.images import decode, load
from spade_index.images.decode import THUMBNAIL_EDGE
from spade_index.settings import Preprocessing

from helpers.tiny import image_file, random_image

SMALL = Preprocessing(input_size=(16, 16))


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def rotated(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


PHOTO = random_image(3, (40, 24))
PLAIN = {
    "rgb": jpeg(PHOTO),
    "grey": jpeg(PHOTO.convert("L")),
    "best": jpeg(PHOTO, quality=100, subsampling=0),
    "optimized": jpeg(PHOTO, optimize=True),
    "progressive": jpeg(PHOTO, progressive=True),
    "restarts": jpeg(PHOTO, restart_marker_rows=1),
}
OTHER = {
    "cmyk": jpeg(PHOTO.convert("CMYK")),
    "exif": jpeg(PHOTO, exif=rotated(1)),
    "turned": jpeg(PHOTO, exif=rotated(6)),
    "comment": jpeg(PHOTO, comment="made up"),
    "profile": jpeg(PHOTO, icc_profile=bytes(100)),
    "wide": jpeg(PHOTO.resize((THUMBNAIL_EDGE + 1, 5))),
    "heavy": jpeg(random_image(4, (190, 190)), quality=100),
}


def by_pillow(data: bytes) -> np.ndarray:
    """Return what `decode` should return for an RGB, L or CMYK image."""
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def thumbnail(data: bytes) -> bytes:
    return load(image_file("x.jpg", data), SMALL).thumbnail


@pytest.mark.parametrize("name", [*PLAIN, *OTHER])
def test_every_kind_is_decoded_upright(name: str) -> None:
    data = {**PLAIN, **OTHER}[name]
    assert np.array_equal(np.asarray(decode(data, "x.jpg")), by_pillow(data))


@pytest.mark.parametrize("name", PLAIN)
def test_a_small_upright_jpeg_is_its_own_thumbnail(name: str) -> None:
    assert thumbnail(PLAIN[name]) == PLAIN[name]


@pytest.mark.parametrize("name", OTHER)
def test_other_thumbnails_have_no_metadata(name: str) -> None:
    made = thumbnail(OTHER[name])
    with Image.open(io.BytesIO(made)) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
        assert max(image.size) <= THUMBNAIL_EDGE
        assert not image.getexif()
        assert not image.info.keys() & {"comment", "icc_profile"}
        upright = by_pillow(OTHER[name]).shape
        assert (image.width > image.height) == (upright[1] > upright[0])
