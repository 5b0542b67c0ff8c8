"""Pixels of more than 8 bits: their values, and what they are in 8 bits.

Unsigned pixels stored in 16 bits have the range that a gallery records: 2^bits - 1 is white. Signed, 32-bit and
floating-point pixels have a range only where the gallery has an explicit one.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from spade_index.settings import BITS, Preprocessing

OTHER_BYTE = {"B": "L", "L": "B", "N": "B"}  # ends of raw modes: which of two bytes Pillow takes; native is L
STRIP = 1 << 20  # values that are converted at a time
FULL = 0xFFFF  # the highest value of 16 bits
GREY16 = ("I;16", "I;16B", "I;16L")
COLOURS16 = ("RGB;16", "RGBA;16", "CMYK;16")
BITS_PER_SAMPLE, PHOTOMETRIC, HIGHEST, PLANES, SAMPLE_FORMAT = 258, 262, 281, 284, 339  # tags of TIFF
WHITE_IS_ZERO, SEPARATE, UNSIGNED, SIGNED = 0, 2, 1, 2
KINDS = {"i1": "signed", "i4": "signed", "u4": "32-bit", "f4": "floating-point"}
REMEDY = "build the gallery with --pixel-range LOW HIGH, or save it with 8 or 16 bits"


class Refused(ValueError):
    """An image that Pillow reads and we do not; the message follows the name of the file."""


@dataclass(frozen=True)
class Deep:
    """The pixels of an image as they are stored."""

    values: np.ndarray  # uint16, int8, int32, uint32 or float32 [H, W], or uint16 [H, W, C]
    mode: str  # of the image in 8 bits: L, RGB, RGBA, LA or CMYK
    stated: int = 0  # highest value that the file itself states
    inverted: bool = False  # whether the lowest value is white

    @property
    def kind(self) -> str | None:
        """What the values are, where only an explicit range can tell what they mean."""
        return KINDS.get(self.values.dtype.str[1:])

    @property
    def unknown(self) -> str:
        """What to say where an explicit range is needed and there is none."""
        return f"{self.kind} pixels have no known range: {REMEDY}"

    @property
    def colours(self) -> np.ndarray:
        """The values without the alpha channel."""
        return self.values[..., :-1] if self.mode in ("LA", "RGBA") else self.values

    @property
    def highest(self) -> int:
        """The highest value, or what the file states it to be."""
        return max(self.stated, int(self.colours.max()))

    def in_8_bits(self, how: Preprocessing) -> tuple[Image.Image, str | None]:
        """Return the image in 8 bits, and a notice if it hardly fits the range. Raises Refused if it does not."""
        if how.pixel_range is not None:
            low, high = how.pixel_range
            self._require_within(low, high)
            return self._scaled(low, high), None
        if self.kind is not None:
            raise Refused(self.unknown)
        if how.bits is None:
            return self._image(_upper()[self.values]), self._too_dark(16)
        self._require_bits(how.bits)
        return self._scaled(0, 2**how.bits - 1), self._too_dark(how.bits)

    def _scaled(self, low: float, high: float) -> Image.Image:
        out = np.empty(self.values.shape, np.uint8)
        for rows in _strips(self.values):
            part = self.values[rows]
            out[rows] = _linear(part, low, high) if self.kind else _table(low, high)[part]
        if self.colours is not self.values and self.values[..., -1].max() > high:
            out[..., -1] = self.values[..., -1] >> 8  # colours of fewer bits, beside an alpha channel of all 16
        return self._image(255 - out if self.inverted else out)

    def _image(self, pixels: np.ndarray) -> Image.Image:
        height, width = pixels.shape[:2]
        return Image.frombytes(self.mode, (width, height), pixels.tobytes())

    def _require_within(self, low: float, high: float) -> None:
        least, most = self.colours.min(), self.colours.max()
        if not (low <= least and most <= high):  # NaN is not
            raise Refused(
                f"its values, {least:g} to {most:g}, are outside of the gallery's pixel range, {low:g} to {high:g}: "
                "build the gallery with a wider --pixel-range"
            )

    def _require_bits(self, bits: int) -> None:
        if (highest := int(self.colours.max())) >= 2**bits:
            raise Refused(
                f"its values go up to {highest:,}, but the gallery's have {bits} bits ({2**bits - 1:,} at most): "
                f"build the gallery with --bits {bits_of(highest)}, or save the image in the gallery's range"
            )

    def _too_dark(self, bits: int) -> str | None:
        """Return a notice if the values use so few of the bits that the file seems to be of another range."""
        highest = self.highest
        fewer = bits_of(highest)
        if fewer > bits - 4 or not highest:
            return None
        return (
            f"no value is over {highest:,}, and the gallery's have {bits} bits ({2**bits - 1:,} at most): if it was "
            f"saved with {fewer} bits it is read too dark; build the gallery with --bits {fewer}"
        )


def bits_of(highest: int) -> int:
    """Return the least of 8, 10, 12, 14 and 16 bits that hold a value."""
    return next((bits for bits in BITS if highest < 2**bits), BITS[-1])


def read_deep(image: ImageFile.ImageFile, data: bytes) -> Deep | None:
    """Return the pixels of an image of more than 8 bits, just opened from `data`; None for others."""
    if image.format == "TIFF":
        return _of_tiff(image, data)
    if image.format == "PNG" and (image.mode in GREY16 or _raw_mode(image).endswith(";16B")):
        return _of_16_bits(image, data, _significant(data))
    return None


def _of_tiff(image: ImageFile.ImageFile, data: bytes) -> Deep | None:
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    (sample_format, *_) = _numbers(image, SAMPLE_FORMAT) or (UNSIGNED,)
    inverted = image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO
    stated = max((number for number in _numbers(image, HIGHEST) if number < FULL), default=0)
    if image.mode in ("I", "F"):
        image.load()
        values = np.asarray(image)
        if image.mode == "I" and sample_format == UNSIGNED:
            values = values.view(np.uint32)  # Pillow keeps their bits
        return Deep(values, "L", inverted=inverted)
    if image.mode == "L" and sample_format == SIGNED:
        image.load()
        return Deep(np.asarray(image).view(np.int8), "L", inverted=inverted)
    if max(_numbers(image, BITS_PER_SAMPLE), default=1) > 8:
        if image.mode not in GREY16 and image.tag_v2.get(PLANES) == SEPARATE:
            raise Refused("16-bit bands that are stored one after the other cannot be read: interleave them")
        return _of_16_bits(image, data, stated, inverted)
    return None


def _of_16_bits(image: ImageFile.ImageFile, data: bytes, stated: int = 0, inverted: bool = False) -> Deep:
    """Read both bytes of each value. Pillow gives colours of 16 bits by one of their bytes, in a mode of 8 bits."""
    if image.mode in GREY16:
        image.load()
        return Deep(np.asarray(image).astype(np.uint16), "L", stated, inverted)
    raw = _raw_mode(image)
    if raw == "LA;16B":
        image.tile = [tile._replace(args="RGBA") for tile in image.tile]  # of PNG: four bytes
        image.load()
        four = np.asarray(image)
        return Deep(four[..., ::2].astype(np.uint16) << 8 | four[..., 1::2], "LA", stated)
    if raw[:-1] not in COLOURS16:
        raise Refused(f"16-bit pixels of the kind {raw[:-1]} cannot be read: save it with 8 bits")
    image.load()
    values = np.asarray(image).astype(np.uint16)
    values <<= 8
    with Image.open(io.BytesIO(data), formats=(str(image.format),)) as again:
        assert isinstance(again, ImageFile.ImageFile)
        again.tile = [_of_other_byte(tile) for tile in again.tile]
        again.load()
        values |= np.asarray(again)
    return Deep(values, image.mode, stated)


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


def _numbers(image: TiffImagePlugin.TiffImageFile, tag: int) -> tuple[int, ...]:
    value = image.tag_v2.get(tag, ())
    values = value if isinstance(value, tuple) else (value,)
    return tuple(int(number) for number in values)


def _strips(values: np.ndarray) -> Iterator[slice]:
    rows = max(1, STRIP * len(values) // values.size)
    return (slice(start, start + rows) for start in range(0, len(values), rows))


def _linear(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint((values.astype(np.float64) - low) / (high - low) * 255).clip(0, 255)


@cache
def _table(low: float, high: float) -> np.ndarray:
    """Return what each value of 16 bits is in 8."""
    return _linear(np.arange(1 << 16), low, high).astype(np.uint8)


@cache
def _upper() -> np.ndarray:
    """Return the upper eight bits of each value of 16."""
    return (np.arange(1 << 16) >> 8).astype(np.uint8)
