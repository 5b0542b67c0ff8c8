"""Regions as Label Studio's brush has them: run lengths of a picture of four channels, packed as bits.

    32 bits  the number of values: height * width * 4 channels (red, green, blue, alpha), row by row
    5 bits   the bits of a value, less 1
    4 * 4    four lengths of counts in bits, less 1
    then     for each run: 1, two bits that choose a length of counts, the count less 1, the value

A run begins with 0 where its values are all different; these are not written here. The last byte is filled with zeros.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from spade_index.errors import InputError
from spade_index.images.geometry import Geometry
from spade_index.method.regions import Region

from .regions import inside

CHANNELS = 4
VALUE_BITS = 8
COUNT_BITS = (3, 4, 8, 16)  # that a count may have, as Label Studio's own masks
PAINTED = 255
MOST_RUNS = 200_000  # of a mask that is read; the outline of a large region has a few thousand
ALPHA = 3  # the channel that says what is painted


def brush(region: Region, geometry: Geometry) -> list[int]:
    """Return the mask of one region in the original, its holes left open, as the bytes of Label Studio's format."""
    (left, top), part = inside(region, geometry)
    return packed(part, (left, top), (geometry.width, geometry.height))


def packed(part: NDArray[np.bool_], corner: tuple[int, int], size: tuple[int, int]) -> list[int]:
    """Return a mask as the bytes of Label Studio's format.

    Args:
        part: bool [h, w], where the mask is true; it is false elsewhere.
        corner: x and y of the part in the picture.
        size: width and height of the picture.

    Raises:
        InputError: the picture has more pixels than the format can count.
    """
    width, height = size
    if height * width * CHANNELS >= 1 << 32:
        raise InputError(f"a picture of {width}x{height} pixels is too large for Label Studio's brush")
    bits = [f"{height * width * CHANNELS:032b}{VALUE_BITS - 1:05b}", *(f"{count - 1:04b}" for count in COUNT_BITS)]
    bits += [_run(count, value) for count, value in _runs(part, corner, size)]
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def _runs(part: NDArray[np.bool_], corner: tuple[int, int], size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield the runs of equal values of a picture: their lengths, which a count may have, and their values."""
    (left, top), (width, height) = corner, size
    steps = np.diff(np.pad(part, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, columns = np.nonzero(steps)  # in each row: where the mask begins, where it ends, where it begins again, ...
    borders = np.concatenate([[0], (rows + top) * width + columns + left, [height * width]]) * CHANNELS
    longest = 1 << max(COUNT_BITS)
    for number, count in enumerate(np.diff(borders).tolist()):
        value = PAINTED if number % 2 else 0
        whole, rest = divmod(count, longest)
        yield from ((longest, value) for _ in range(whole))
        if rest:
            yield rest, value


def _run(count: int, value: int) -> str:
    """Return the bits of a run."""
    choice = next(number for number, bits in enumerate(COUNT_BITS) if count <= 1 << bits)
    return f"1{choice:02b}{count - 1:0{COUNT_BITS[choice]}b}{value:0{VALUE_BITS}b}"


def painted_box(data: Sequence[int], size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """Return x, y, width and height of what a mask in Label Studio's format paints, in pixels; None: nothing.

    Takes time by the runs that there are, MOST_RUNS at most, whatever number of pixels they tell of.

    Args:
        data: the mask's bytes.
        size: width and height of the picture.

    Raises:
        ValueError: these are no bytes of such a mask, of a picture of this size; or it has too many runs.
    """
    width, height = size
    left, top, right, below = width, height, -1, -1
    for begin, end in _painted(bytes(data), width * height * CHANNELS):
        if (pixels := _pixels(begin, end)) is not None:
            (first_row, first), (last_row, last) = (divmod(pixel, width) for pixel in pixels)
            if first_row < last_row:
                first, last = 0, width - 1
            left, right, top, below = min(left, first), max(right, last), min(top, first_row), max(below, last_row)
    return None if right < 0 else (left, top, right - left + 1, below - top + 1)


def _pixels(first: int, end: int) -> tuple[int, int] | None:
    """Return the first and last pixel whose alpha is among the values `first` to `end` - 1, or None."""
    one, last = (first + CHANNELS - 1 - ALPHA) // CHANNELS, (end - 1 - ALPHA) // CHANNELS
    return (one, last) if one <= last else None


def _painted(data: bytes, count: int) -> Iterator[tuple[int, int]]:
    """Yield first and end of each run of values that are not 0, of `count` values. Raises ValueError."""
    bits, at = f"{int.from_bytes(data):0{8 * len(data)}b}" if data else "", 0

    def number(size: int) -> int:
        nonlocal at
        at += size
        if at > len(bits):
            raise ValueError("a mask ends early")
        return int(bits[at - size : at], 2)

    if number(32) != count:
        raise ValueError("a mask is of a picture of another size")
    value_bits, place, runs_read = number(5) + 1, 0, 0
    sizes = [number(4) + 1 for _ in COUNT_BITS]
    while place < count:
        is_equal = number(1)
        length = number(sizes[number(2)]) + 1
        runs_read += 1 if is_equal else length
        if runs_read > MOST_RUNS:
            raise ValueError(f"a mask has more than {MOST_RUNS:,} runs")
        if is_equal:
            runs = [(place, place + length)] if number(value_bits) else []
        else:
            runs = [(one, one + 1) for one in range(place, place + length) if number(value_bits)]
        yield from runs
        place += length
    if place > count:
        raise ValueError("a mask has more values than its picture")
