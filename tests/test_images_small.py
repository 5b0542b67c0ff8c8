"""Small JPEG files: decoded past Pillow's headers to what Pillow makes of them, and their own thumbnails."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from tiny import image_file, random_image

from spade_index.errors import ImageError
from spade_index.images import THUMBNAIL_BYTES, THUMBNAIL_EDGE, decode, load
from spade_index.plain_jpeg import LARGEST, decode_plain
from spade_index.settings import Preprocessing

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

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
}
OTHER = {
    "progressive": jpeg(PHOTO, progressive=True),
    "cmyk": jpeg(PHOTO.convert("CMYK")),
    "exif": jpeg(PHOTO, exif=rotated(1)),
    "turned": jpeg(PHOTO, exif=rotated(6)),
    "comment": jpeg(PHOTO, comment="made up"),
    "profile": jpeg(PHOTO, icc_profile=bytes(100)),
    "wide": jpeg(PHOTO.resize((THUMBNAIL_EDGE + 1, 5))),
    "heavy": jpeg(random_image(4, (190, 190)), quality=100),
    "restarts": jpeg(PHOTO, restart_marker_rows=1),
}


def by_pillow(data: bytes) -> np.ndarray:
    """What `decode` did without any short way, for what is RGB, L or CMYK."""
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def thumbnail(data: bytes) -> bytes:
    return load(image_file("x.jpg", data), SMALL).thumbnail


@pytest.mark.parametrize("name", PLAIN)
def test_plain_files_are_decoded_at_once(name: str) -> None:
    found = decode_plain(PLAIN[name], 40)
    assert found is not None
    assert found.mode == ("L" if name == "grey" else "RGB")
    assert np.array_equal(np.asarray(found.convert("RGB")), by_pillow(PLAIN[name]))
    assert decode_plain(PLAIN[name], 39) is None


@pytest.mark.parametrize("name", OTHER)
def test_whatever_is_not_plain_is_left_to_pillow(name: str) -> None:
    assert decode_plain(OTHER[name], THUMBNAIL_EDGE) is None
    assert np.array_equal(np.asarray(decode(OTHER[name], "x.jpg")), by_pillow(OTHER[name]))


@pytest.mark.parametrize("size", [(1, 1), (192, 1), (1, 192), (7, 191), (16, 17)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_every_size_and_sampling(size: tuple[int, int], mode: str, subsampling: int) -> None:
    data = jpeg(random_image(5, size).convert(mode), subsampling=subsampling)
    assert decode_plain(data, THUMBNAIL_EDGE) is not None
    assert np.array_equal(np.asarray(decode(data, "x.jpg")), by_pillow(data))


@settings(max_examples=600, deadline=None)
@given(data=st.data())
def test_altered_bytes_are_decoded_as_pillow_does_or_refused_as_it_does(data: st.DataObject) -> None:
    altered = bytearray(PLAIN[data.draw(st.sampled_from(sorted(PLAIN)))])
    for _ in range(data.draw(st.integers(0, 3))):
        altered[data.draw(st.integers(0, len(altered) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(altered))) if data.draw(st.booleans()) else len(altered)
    contents = bytes(altered[:cut])
    plain = decode_plain(contents, THUMBNAIL_EDGE)
    if plain is not None:
        assert np.array_equal(np.asarray(plain.convert("RGB")), by_pillow(contents))
    try:
        expected = by_pillow(contents)
    except Exception:
        with pytest.raises(ImageError):
            decode(contents, "x.jpg")
    else:
        assert np.array_equal(np.asarray(decode(contents, "x.jpg")), expected)


@pytest.mark.parametrize("name", [*PLAIN, "progressive", "exif", "comment", "profile"])
def test_a_small_upright_jpeg_is_its_own_thumbnail(name: str) -> None:
    data = {**PLAIN, **OTHER}[name]
    assert thumbnail(data) == data


@pytest.mark.parametrize("name", ["cmyk", "turned", "wide", "heavy"])
def test_others_have_one_made(name: str) -> None:
    data = OTHER[name]
    made = thumbnail(data)
    assert made != data
    with Image.open(io.BytesIO(made)) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
        assert max(image.size) <= THUMBNAIL_EDGE
        upright = by_pillow(data).shape
        assert (image.width > image.height) == (upright[1] > upright[0])


def test_the_limit_of_a_thumbnails_bytes_is_that_of_plain_files() -> None:
    assert len(OTHER["heavy"]) > THUMBNAIL_BYTES == LARGEST
    padded = PLAIN["rgb"] + bytes(LARGEST)
    assert decode_plain(padded, THUMBNAIL_EDGE) is None
    assert np.array_equal(np.asarray(decode(padded, "x.jpg")), by_pillow(PLAIN["rgb"]))
