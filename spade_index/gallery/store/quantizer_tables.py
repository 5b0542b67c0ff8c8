"""Tables of the codec `pq` for one level, and how they lie in a catalog. See `quantizer`."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .widened import widened

ROWS = 256  # of a table
WHOLE = 3  # bytes of a place at most that name rows over all channels
NARROWEST = 4  # channels of a part
LARGEST = 1 << 16  # units that a value is cut off at, when it is encoded
HALF = 65504.0  # the largest float16
ALONE = 1 << 18  # multiplications of a product up to which OpenBLAS starts no threads: the backbone has the cores


@dataclass(frozen=True)
class Parts:
    """What the bytes of a place are."""

    whole: int  # that name rows over all channels
    number: int  # of parts of channels
    width: int  # of a part

    @classmethod
    def of(cls, channels: int, size: int) -> "Parts":
        """Return the parts of up to `size` bytes, at least one."""
        whole = min(size, WHOLE)
        width = max(NARROWEST, math.ceil(channels / (size - whole))) if size > whole else 0
        return cls(whole, math.ceil(channels / width) if width else 0, width)

    @property
    def size(self) -> int:
        """The bytes of a place."""
        return self.whole + self.number


@dataclass(frozen=True)
class Tables:
    """The tables of a level."""

    unit: float  # a power of two
    whole: np.ndarray  # int16 [tables, 256, C]
    parts: np.ndarray  # int16 [parts, 256, width]; zeros beyond the last channel
    errors: np.ndarray | None = None  # float32 [C], root mean squares over the sample; earlier tables came without

    @classmethod
    def from_bytes(cls, data: bytes, channels: int, size: int) -> "Tables":
        """Read what `to_bytes` wrote, for places of `size` bytes. Raises ValueError."""
        parts, errors = Parts.of(channels, size), None
        if len(data) == cls.bytes_for(channels, size):
            data, errors = data[: -4 * channels], np.frombuffer(data[-4 * channels :], "<f4")
            if not (np.isfinite(errors) & (errors >= 0)).all():
                raise ValueError("the errors of its tables are none")
        unit = float(np.frombuffer(data[:8], "<f8")[0])
        if not 2.0**-40 <= unit <= 2.0**8 or math.frexp(unit)[0] != 0.5:
            raise ValueError("the unit of its tables is none")
        values = np.frombuffer(data[8:], "<i2")
        whole, rest = np.split(values, [parts.whole * ROWS * channels])
        return cls(unit, whole.reshape(-1, ROWS, channels), rest.reshape(parts.number, ROWS, parts.width), errors)

    @staticmethod
    def bytes_for(channels: int, size: int, errors: bool = True) -> int:
        """Return how many bytes `to_bytes` returns, with errors or without."""
        parts = Parts.of(channels, size)
        return 8 + 2 * ROWS * (parts.whole * channels + parts.number * parts.width) + 4 * channels * errors

    def to_bytes(self) -> bytes:
        """Return the unit as float64, all tables, in raster order, and the errors, if any, all little-endian."""
        arrays = [np.array([self.unit], "<f8"), self.whole, self.parts]
        if self.errors is not None:
            arrays.append(self.errors)
        return b"".join(array.tobytes() for array in arrays)

    @property
    def size(self) -> int:
        """The bytes of a place."""
        return len(self.whole) + len(self.parts)

    def units(self, values: np.ndarray) -> np.ndarray:
        """Return float16 [P, C] as whole numbers of the unit, float64."""
        wide = widened(values, np.float64)
        wide /= self.unit
        return np.clip(np.rint(wide, out=wide), -LARGEST, LARGEST, out=wide)

    @cached_property
    def scaled(self) -> tuple[np.ndarray, np.ndarray]:
        """The tables as float32 values: over all channels, and [parts * 256, width]."""
        whole, parts = (np.float32(self.unit) * tables.astype(np.float32) for tables in (self.whole, self.parts))
        return whole, parts.reshape(len(parts) * ROWS, parts.shape[-1])

    @cached_property
    def within_half(self) -> bool:
        """Whether no sum of rows is beyond the largest float16."""
        most = np.abs(self.whole.astype(np.int64)).max((1, 2)).sum() + np.abs(self.parts.astype(np.int64)).max(
            initial=0
        )
        return bool(most * self.unit <= HALF)


def nearest(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Return the row of a table int16 [256, C] that is nearest to each vector float64 [P, C]: the lowest of equals.

    Vectors are whole numbers, so float64 holds all sums exactly, in whatever order they are added.
    """
    rows = table.astype(np.float64)
    turned, squares = -2 * rows.T, (rows * rows).sum(1)
    found = np.empty(len(values), np.intp)
    step = max(1, ALONE // rows.size)
    for start in range(0, len(values), step):
        distances = values[start : start + step] @ turned
        distances += squares
        found[start : start + step] = distances.argmin(1)
    return found
