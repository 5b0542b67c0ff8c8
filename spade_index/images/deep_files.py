"""Read the pixels of files with more than 8 bits, which Pillow gives in part or without their meaning."""

import numpy as np
from PIL import ImageFile, TiffImagePlugin

from .depth import FULL, Deep
from .formats import HEIF, Refused, open_image
from .pnm import read_pnm
from .tiff import BITS_PER_SAMPLE, HIGHEST, PHOTOMETRIC, PLANES, SAMPLE_FORMAT, numbers

OTHER_BYTE = {"B": "L", "L": "B", "N": "B"}  # ends of raw modes: which of two bytes Pillow takes; native is L
LOW = 1 << 6  # an upper byte below it leaves two bits or more unused
SIZ = b"\xff\x51"  # marker of a JPEG 2000 file's segment about its size
GREY16 = ("I;16", "I;16B", "I;16L")
DEEP = (*GREY16, "I", "F")  # modes, which Pillow cuts off at white where it turns them into RGB
COLOURS16 = ("RGB;16", "RGBA;16", "CMYK;16")
WHITE_IS_ZERO, SEPARATE, UNSIGNED, SIGNED = 0, 2, 1, 2  # values of TIFF's tags


def read_deep(image: ImageFile.ImageFile, data: bytes) -> Deep | None:
    """Return the pixels of an image of more than 8 bits, just opened from `data`; None where Pillow gives all of it.

    Raises Refused for pixels that cannot be read, and what Pillow raises for damaged files.
    """
    if image.format == "TIFF":
        return _of_tiff(image, data)
    if image.format == "PNG" and (image.mode in GREY16 or _raw_mode(image).endswith(";16B")):
        return _of_16_bits(image, data, _significant(data))
    if image.format == "PPM":
        return read_pnm(image, data)
    if image.format == "JPEG2000" and image.mode != "P":
        return _of_jpeg2000(image, data)
    if image.format == HEIF and image.mode in GREY16:  # 10 or 12 bits, which were scaled to 16
        return Deep(_grey16(image), "L", white=FULL)
    if image.mode in DEEP:
        raise Refused(f"{image.format} pixels of more than 8 bits cannot be read: save it as PNG or TIFF")
    return None


def _of_tiff(image: ImageFile.ImageFile, data: bytes) -> Deep | None:
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    if image.mode == "LAB" and image.tag_v2.get(PLANES) == SEPARATE:  # Pillow takes their signs for another's
        raise Refused("L*a*b* bands that are stored one after the other cannot be read: interleave them")
    (sample_format, *_) = numbers(image.tag_v2, SAMPLE_FORMAT) or (UNSIGNED,)
    inverted = image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO
    stated = max((number for number in numbers(image.tag_v2, HIGHEST) if number < FULL), default=0)
    if image.mode in ("I", "F"):
        image.load()
        values = np.asarray(image)
        if image.mode == "I" and sample_format == UNSIGNED:
            values = values.view(np.uint32)  # Pillow keeps their bits
        return Deep(values, "L", inverted=inverted)
    if image.mode == "L" and sample_format == SIGNED:
        image.load()
        return Deep(np.asarray(image).view(np.int8), "L", inverted=inverted)
    if max(numbers(image.tag_v2, BITS_PER_SAMPLE), default=1) > 8:
        if image.mode not in GREY16 and image.tag_v2.get(PLANES) == SEPARATE:
            raise Refused("16-bit bands that are stored one after the other cannot be read: interleave them")
        return _of_16_bits(image, data, stated, inverted)
    return None


def _of_jpeg2000(image: ImageFile.ImageFile, data: bytes) -> Deep | None:
    """Pillow shifts pixels of any number of bits, which the file states, to 8 bits, or to 16 if they are grey."""
    siz = data.find(SIZ)
    signed, bits = data[siz + 40] >> 7, (data[siz + 40] & 0x7F) + 1
    if signed:
        raise Refused("signed pixels of JPEG 2000 are not read: save it as TIFF")
    image.load()
    if image.mode in GREY16:
        return Deep(_grey16(image), "L", white=None if bits == 16 else FULL)
    if bits > 14 and max(high for _, high in image.convert("RGB").getextrema()) < LOW:  # type: ignore[misc]
        raise Refused(f"it uses few of its {bits} bits, of which the upper 8 can be read: save it as PNG or TIFF")
    return None


def _of_16_bits(image: ImageFile.ImageFile, data: bytes, stated: int = 0, inverted: bool = False) -> Deep:
    """Read both bytes of each value. Pillow gives colours of 16 bits by one of their bytes, in a mode of 8 bits."""
    if image.mode in GREY16:
        return Deep(_grey16(image), "L", stated=stated, inverted=inverted)
    raw = _raw_mode(image)
    if raw == "LA;16B":
        image.tile = [tile._replace(args="RGBA") for tile in image.tile]  # of PNG: four bytes
        image.load()
        four = np.asarray(image)
        return Deep(four[..., ::2].astype(np.uint16) << 8 | four[..., 1::2], "LA", stated=stated)
    if raw[:-1] not in COLOURS16:
        raise Refused(f"16-bit pixels of the kind {raw[:-1]} cannot be read: save it with 8 bits")
    image.load()
    values = np.asarray(image).astype(np.uint16)
    values <<= 8
    with open_image(data) as again:
        again.tile = [_of_other_byte(tile) for tile in again.tile]
        again.load()
        values |= np.asarray(again)
    return Deep(values, image.mode, stated=stated)


def _grey16(image: ImageFile.ImageFile) -> np.ndarray:
    """Return the pixels of a grey image of 16 bits: uint16 [H, W]."""
    image.load()
    return np.asarray(image).astype(np.uint16)


def _of_other_byte(tile: ImageFile._Tile) -> ImageFile._Tile:
    """Return a tile that Pillow reads by the lower bytes, where it would take the upper."""
    assert tile.args is not None
    raw = tile.args if isinstance(tile.args, str) else tile.args[0]
    other = raw[:-1] + OTHER_BYTE[raw[-1]]
    return tile._replace(args=other if isinstance(tile.args, str) else (other, *tile.args[1:]))


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """Return how Pillow calls the layout of an image's pixels in its file."""
    args = image.tile[0].args if image.tile else None
    return args if isinstance(args, str) else str(args[0]) if args else ""


def _significant(png: bytes) -> int:
    """Return the highest value of the significant bits (sBIT) that a PNG states, 0 if it states none of fewer than 16.

    A file that states them should use all 16 bits nevertheless, but not all programs do that.
    """
    at = 8
    while (kind := png[at + 4 : at + 8]) not in (b"IDAT", b""):
        length = int.from_bytes(png[at : at + 4])
        if kind == b"sBIT":
            bits = max(png[at + 8 : at + 8 + length], default=16)
            return 2**bits - 1 if bits < 16 else 0
        at += 12 + length
    return 0
