"""Files that are damaged in their middle are refused, or named, where their format can tell."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from spade_index.errors import InputError
from spade_index.images.damage import require_undamaged
from spade_index.images.decode import AS_STORED, MAX_PIXELS, decode_noted
from spade_index.images.files import MaskFile
from spade_index.images.mask_pixels import read_whole_mask
from spade_index.images.workers import Held

from helpers.decoding import read, refusal
from helpers.tiny import random_image

PHOTO = random_image(3, (160, 120))
JPEG = {
    "baseline": {},
    "grey": {"mode": "L"},
    "ink": {"mode": "CMYK"},
    "progressive": {"progressive": True},
    "optimized": {"optimize": True},
    "restarts": {"restart_marker_rows": 1},
}


def encoded(kind: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    PHOTO.convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def changed(data: bytes, other: bytes, cut: int = 0, at: float = 0.5) -> bytes:
    """Return a file with other bytes in its middle, in place of as many, or of `cut`."""
    place = int(len(data) * at)
    return data[:place] + other + data[place + (cut or len(other)) :]


@pytest.mark.parametrize("options", JPEG.values(), ids=JPEG)
def test_a_jpeg_of_which_a_part_is_missing_or_another_is_refused(options: dict) -> None:
    pytest.importorskip("simplejpeg")
    whole = encoded("JPEG", **{"quality": 90, **options})  # type: ignore[arg-type]
    assert decode_noted(whole, "x", MAX_PIXELS, AS_STORED).notice is None
    part = len(whole) // 6
    noise = np.random.default_rng(0).integers(0, 255, part, np.uint8).tobytes()
    for other in (noise, b""):
        assert "it is damaged" in refusal(changed(whole, other, part))


def test_a_jpeg_with_a_little_more_data_than_pixels_is_named() -> None:
    pytest.importorskip("simplejpeg")
    whole = encoded("JPEG")
    filled = decode_noted(whole[:-2] + bytes(40) + whole[-2:], "x.jpg", MAX_PIXELS, AS_STORED)
    assert filled.notice == "x.jpg: it has more data than its pixels take: it may be damaged"
    assert np.array_equal(np.asarray(filled.image), read(whole))
    assert "it is damaged" in refusal(whole[:-2] + bytes(400) + whole[-2:])
    assert decode_noted(whole + bytes(5000), "x.jpg", MAX_PIXELS, AS_STORED).notice is None  # behind its end


def test_a_damaged_mask_is_refused() -> None:
    pytest.importorskip("simplejpeg")
    with pytest.raises(InputError, match=r"m\.jpg: .*it is damaged"):
        read_whole_mask(MaskFile.named("m.jpg", Held(changed(encoded("JPEG", quality=90), b"", 700))))


@pytest.mark.parametrize("compression", ["tiff_adobe_deflate", "tiff_deflate"])
def test_each_strip_of_a_deflated_tiff_fits_its_checksum(compression: str) -> None:
    whole = encoded("TIFF", compression=compression)
    assert np.array_equal(read(whole), np.asarray(PHOTO))
    for at in (0.2, 0.5, 0.8):
        place = int(len(whole) * at)
        assert "checksum does not fit" in refusal(changed(whole, bytes([whole[place] ^ 0x5A]), at=at))


def test_a_strip_that_inflates_to_more_than_all_pixels_take_is_not_read_to_its_end() -> None:
    with Image.open(io.BytesIO(encoded("TIFF", compression="tiff_adobe_deflate"))) as image:
        bomb = zlib.compress(bytes(64 << 20))
        image.tag_v2[273], image.tag_v2[279] = (0,) * 500, (len(bomb),) * 500
        assert require_undamaged(image, bomb) is None  # 32 GB


@pytest.mark.parametrize("kind", ["WEBP", "AVIF"])
def test_a_file_whose_end_was_never_written_is_refused(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind, quality=90)
    whole = buffer.getvalue()
    assert len(whole) > 10_000
    assert "ends in zeros" in refusal(whole[:-5000] + bytes(5000))
    assert read(whole).shape == (120, 160, 3)
