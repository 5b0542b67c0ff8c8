"""Portable anymaps (PBM, PGM, PPM), which state their white. Pillow decodes most of them in Python, slowly."""

import re

import numpy as np
from PIL import ImageFile

from .depth import FULL, Deep
from .formats import Refused

PLAIN_BITS, PLAIN, BINARY = b"P1", (b"P2", b"P3"), (b"P5", b"P6")
BY_PILLOW = b"P4"
COMMENT = re.compile(rb"#[^\r\n]*")


def read_pnm(image: ImageFile.ImageFile, data: bytes) -> Deep | None:
    """Return the pixels of an anymap that was just opened from `data`; None where Pillow decodes it quickly."""
    kind = data[:2]
    (tile,) = image.tile
    args = tile.args
    if kind == b"Pf":
        image.load()
        return Deep(np.asarray(image), "L")
    if kind == BY_PILLOW or (kind in BINARY and args in ("L", "RGB")):
        return None
    bands = () if image.mode != "RGB" else (3,)
    shape = (image.height, image.width, *bands)
    count = int(np.prod(shape))
    if kind == PLAIN_BITS:
        digits = np.frombuffer(COMMENT.sub(b"", data[tile.offset :]), np.uint8)
        bits = digits[(digits == ord("0")) | (digits == ord("1"))] - np.uint8(ord("0"))
        return Deep(_shaped(bits, shape, count, 1), "L", white=1, inverted=True)
    most = FULL if args == "I;16B" else int(args[1])  # type: ignore[index]
    if kind in PLAIN:
        numbers = np.fromstring(COMMENT.sub(b"", data[tile.offset :]), np.int64, sep=" ")
        values = _shaped(numbers, shape, count, most)
    elif kind in BINARY:
        dtype = np.dtype(np.uint8 if most < 256 else ">u2")
        values = _shaped(np.frombuffer(data, dtype, offset=tile.offset), shape, count, most)
    else:
        raise Refused("a portable anymap of this kind is not read")
    return Deep(values, "RGB" if bands else "L", white=None if most == FULL else most)


def _shaped(values: np.ndarray, shape: tuple[int, ...], count: int, most: int) -> np.ndarray:
    if values.size < count:
        raise Refused("its pixels are incomplete")
    pixels = values[:count].reshape(shape)
    if count and not 0 <= pixels.min() <= pixels.max() <= most:
        raise Refused(f"it has values outside of 0 to {most:,}, its range")
    return pixels.astype(np.uint16)
