"""Pixels of more than 8 bits: their values, and what they are in 8 bits.

Unsigned pixels stored in 16 bits have the bits that a gallery records, and the upper eight of them are read. Formats
that state what is white (PGM, JPEG 2000) are read by that. Signed, 32-bit and floating-point pixels have a range only
where the gallery has an explicit one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from spade_index.settings import BITS, Preprocessing

from .formats import Refused

STRIP = 1 << 20  # values that are converted at a time
FULL = 0xFFFF  # the highest value of 16 bits
KINDS = {"i1": "signed", "i4": "signed", "u4": "32-bit", "f4": "floating-point"}
REMEDY = "build the gallery with --pixel-range LOW HIGH, or save it with 8 or 16 bits"

ToEightBits = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Deep:
    """The pixels of an image as they are stored."""

    values: np.ndarray  # uint8, uint16, int8, int32, uint32 or float32 [H, W], or uint16 [H, W, C]
    mode: str  # of the image in 8 bits: L, RGB, RGBA, LA or CMYK
    stated: int = 0  # highest value that the file states, which may be too low
    white: int | None = None  # that the file's format states
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
        if self.white is not None:
            return self._scaled(*_of_white(self.white)), None
        if how.pixel_range is not None:
            low, high = how.pixel_range
            self._require_within(low, high)
            return self._scaled(high, partial(_linear, low, high)), None
        if self.kind is not None:
            raise Refused(self.unknown)
        if how.bits is None:
            return self._image((self.values >> 8).astype(np.uint8)), self._too_dark(16)
        self._require_bits(how.bits)
        return self._scaled(*_of_bits(how.bits)), self._too_dark(how.bits)

    def _scaled(self, high: float, to_8_bits: ToEightBits) -> Image.Image:
        out = np.empty(self.values.shape, np.uint8)
        for rows in _strips(self.values):
            out[rows] = to_8_bits(self.values[rows])
        if self.colours is not self.values and self.values[..., -1].max() > high:
            out[..., -1] = self.values[..., -1] >> 8  # colours of fewer bits, beside an alpha channel of all 16
        return self._image(255 - out if self.inverted else out)

    def _image(self, pixels: np.ndarray) -> Image.Image:
        height, width = pixels.shape[:2]
        return Image.frombytes(self.mode, (width, height), pixels.tobytes())

    def _require_within(self, low: float, high: float) -> None:
        least, most = self.colours.min(), self.colours.max()
        if np.isnan(least):  # one NaN makes both of them NaN
            raise Refused("some of its values are not numbers (NaN): give them a value within the gallery's range")
        if not low <= least <= most <= high:
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
        if fewer >= bits or not highest:
            return None
        return (
            f"no value is over {highest:,}, and the gallery's have {bits} bits ({2**bits - 1:,} at most): if this has "
            f"{fewer} bits, it is read too dark: scale it to the gallery's range, or build the gallery with "
            f"--bits {fewer}"
        )


def bits_of(highest: int) -> int:
    """Return the least of 8, 10, 12, 14 and 16 bits that hold a value."""
    return next((bits for bits in BITS if highest < 2**bits), BITS[-1])


def _strips(values: np.ndarray) -> Iterator[slice]:
    rows = max(1, STRIP * len(values) // values.size)
    return (slice(start, start + rows) for start in range(0, len(values), rows))


def _of_bits(bits: int) -> tuple[int, ToEightBits]:
    """Return the highest value of so many bits, and what takes the upper eight of them.

    These are the same 8 bits whether the values were made from 8 by a shift, by scaling to the highest value, or by
    repeating the bits.
    """
    return 2**bits - 1, partial(_upper, bits - 8)


def _of_white(white: int) -> tuple[int, ToEightBits]:
    bits = white.bit_length()
    return _of_bits(bits) if bits > 8 and white == 2**bits - 1 else (white, partial(_linear, 0, white))


def _upper(shift: int, values: np.ndarray) -> np.ndarray:
    return np.minimum(values >> shift, 255)  # an alpha channel may be beyond the colours' range


def _linear(low: float, high: float, values: np.ndarray) -> np.ndarray:
    return np.rint((values.astype(np.float64) - low) / (high - low) * 255).clip(0, 255)
