"""Codecs: how a shard stores the map of a level, float16 [P, C] of one image. See docs/format.md.

    float16  the values as they are
    int8     of each channel its lowest and highest value, float16; then one byte for each value
    int4     the same, with two values in a byte

    pq       rows of tables that were trained on a gallery's own images, in a twentieth of the bytes: see `quantizer`

Codes depend on nothing but the map and the tables, so any writer gives the same bytes. Of all but `pq`, no image added
later lies out of range. `pq` has a name of its own for each set of tables: a shard states it.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from spade_index.settings import ExtractionSettings

from .native import native_codes
from .quantizer import KIND, Quantized
from .widened import widened

DEFAULT = "float16"  # where nothing else is stated
FOR_NEW_GALLERIES = "int8"  # half the bytes; changed no ROC AUC that we measured by more than 0.0004


class LevelCodec(Protocol):
    """How a level's map is stored."""

    @property
    def errors(self) -> np.ndarray | None:
        """The root mean square of what codes leave of each channel, float32 [C]; None if that is small, or unknown."""

    def stored_shape(self, points: int, channels: int) -> tuple[int, ...]:
        """Return the shape of what is stored of a map [P, C]."""

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Return what is stored of a map float16 [P, C], all finite."""

    def require_sound(self, stored: np.ndarray, channels: int) -> None:
        """Raise ValueError for bytes, of a map of so many channels, that do not stand for finite values."""

    def decode(self, stored: np.ndarray, out: np.ndarray) -> None:
        """Write the map into `out`, float16 [P, C]. May raise ValueError as `require_sound` does."""

    def attributes(self, points: int, channels: int) -> dict[str, Any]:
        """Return what a dataset of such maps states of itself in its file."""


class MapCodec(Protocol):
    """How the maps of all levels are stored."""

    @property
    def name(self) -> str:
        """What a shard and a catalog state."""

    @property
    def kind(self) -> str:
        """What people call it: a codec with tables has a name for each set of them."""

    @property
    def dtype(self) -> str:
        """The type of what is stored."""

    @property
    def version(self) -> int:
        """The first version of the format that knows this codec."""

    def of_level(self, level: int) -> LevelCodec:
        """Return how a level's map is stored."""

    def require_fit(self, settings: ExtractionSettings, levels: Sequence[int]) -> None:
        """Raise ValueError unless it can store these levels of such maps."""


class Codec(MapCodec, LevelCodec, Protocol):
    """A codec that stores all levels alike."""


class _Alike:
    """What is the same for all codecs that store all levels alike, of any shape."""

    errors: ClassVar[None] = None

    def of_level(self, level: int) -> Self:
        """Return the codec."""
        return self

    def require_fit(self, settings: ExtractionSettings, levels: Sequence[int]) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Float16(_Alike):
    """The values as they are."""

    name: ClassVar[str] = DEFAULT
    kind: ClassVar[str] = DEFAULT
    dtype: ClassVar[str] = "<f2"
    version: ClassVar[int] = 1

    def stored_shape(self, points: int, channels: int) -> tuple[int, ...]:
        """Return [P, C]."""
        return points, channels

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Return the map."""
        return np.ascontiguousarray(values, "<f2")

    def require_sound(self, stored: np.ndarray, channels: int) -> None:
        """Do nothing: any value can be copied. `SnapshotView` asks the checksum of those that are not finite."""

    def decode(self, stored: np.ndarray, out: np.ndarray) -> None:
        """Copy the map."""
        out[:] = stored

    def attributes(self, points: int, channels: int) -> dict[str, Any]:
        """Return nothing: the dataset's shape and type say all."""
        return {}


@dataclass(frozen=True)
class Affine(_Alike):
    """Whole numbers of 8 or 4 bits between each channel's lowest and highest value.

    A value differs from what is decoded by half a step at most, besides rounding to float16, and the lowest, the
    highest and constant channels by nothing.
    """

    name: str
    bits: int
    dtype: ClassVar[str] = "|u1"
    version: ClassVar[int] = 2

    @property
    def kind(self) -> str:
        """Its name."""
        return self.name

    @property
    def steps(self) -> int:
        """The code of a channel's highest value."""
        return (1 << self.bits) - 1

    def stored_shape(self, points: int, channels: int) -> tuple[int, ...]:
        """Return [bytes]: two float16 for each channel, and the codes; half a byte may be left over."""
        return (4 * channels + math.ceil(points * channels * self.bits / 8),)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Return uint8 [bytes]: lowest [C], highest [C], codes [P, C] in raster order."""
        points, channels = values.shape
        stored = np.empty(self.stored_shape(points, channels), np.uint8)
        if (native := native_codes(values)) is not None and values.dtype == np.float16:
            native.encode_level(values, self.bits, stored)
            return stored
        lowest, highest, codes = _codes(values, self.steps)
        stored[: 4 * channels] = np.stack([lowest, highest]).astype("<f2").view(np.uint8).ravel()
        if self.bits == 8:
            stored[4 * channels :] = codes.ravel()
        else:
            twos = np.append(codes.ravel(), np.uint8(0))[: (codes.size + 1) // 2 * 2].view("<u2")  # the first one low
            stored[4 * channels :] = twos >> 4 | twos
        return stored

    def require_sound(self, stored: np.ndarray, channels: int) -> None:
        """Raise ValueError unless each channel's lowest value and its highest are finite, and in this order."""
        ends = _ends_of(stored, channels)
        if not np.isfinite(ends).all() or (ends[0] > ends[1]).any():
            raise ValueError("a channel's range is not one")

    def decode(self, stored: np.ndarray, out: np.ndarray) -> None:
        """Write lowest + code * (highest - lowest) / steps, computed in float32."""
        points, channels = out.shape
        if (native := native_codes(stored, out)) is not None and native.decode_level(stored, self.bits, out):
            return
        self.require_sound(stored, channels)
        ends = _ends_of(stored, channels)
        lowest, extent = _lowest_and_extent(ends)
        packed = stored[4 * channels :]
        if self.bits == 8:
            codes = packed
        else:
            twos = packed.astype("<u2")
            twos |= twos << 4
            twos &= 0x0F0F  # the first code in the low byte
            codes = twos.view(np.uint8)[: points * channels]
        _scale(codes.reshape(points, channels), extent / np.float32(self.steps), lowest, out)

    def attributes(self, points: int, channels: int) -> dict[str, Any]:
        """Return what a stranger needs to decode a row."""
        order = ", the first value of a byte in its low half" if self.bits == 4 else ""
        return {
            "codec": self.name,
            "shape": np.array([points, channels], "<i8"),
            "row": f"lowest <f2 [C], highest <f2 [C], then codes of {self.bits} bits [P, C], raster order{order}",
            "value": f"lowest + code * (highest - lowest) / {self.steps}",
        }


CODECS: tuple[Codec, ...] = (Float16(), Affine("int8", 8), Affine("int4", 4))  # the finest first
NAMES = tuple(codec.name for codec in CODECS)
KINDS = (*NAMES, KIND)  # the finest first


def codec_named(name: str) -> MapCodec:
    """Return a codec, without its tables. Raises ValueError for a name that this version does not know."""
    if (quantized := Quantized.named(name)) is not None:
        return quantized
    if name not in NAMES:
        raise ValueError(f"its maps are stored as {name[:40]!r}, which this spade_index does not know")
    return CODECS[NAMES.index(name)]


def map_shapes(settings: ExtractionSettings) -> list[tuple[int, int]]:
    """Return the shape [P, C] of each level's map."""
    return [(height * width, channels) for channels, height, width in settings.level_shapes]


def is_finite(values: np.ndarray) -> bool:
    """Return whether all float16 values are finite, ten times as fast as numpy does."""
    # The exponents of infinities and NaNs are all ones, so read as integers they are the largest of either sign.
    return values.view(np.int16).max() < 0x7C00 and values.view(np.uint16).max() < 0xFC00


def _ends_of(stored: np.ndarray, channels: int) -> np.ndarray:
    """Return the lowest and the highest value of each channel, float16 [2, C], of stored bytes."""
    return stored[: 4 * channels].view("<f2").reshape(2, channels)


def _lowest_and_extent(ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return lowest, and highest less lowest, float32 [C], of both as stored, float16 [2, C]."""
    lowest, highest = ends.astype(np.float32)
    return lowest, highest - lowest


def _codes(values: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return lowest and highest, float32 [C], of a map float16 [P, C], and whole numbers between, uint8 [P, C]."""
    scaled = widened(values, np.float32)  # [P, C]
    lowest, highest = _ends(scaled)
    extent = highest - lowest
    scaled -= lowest
    scaled *= np.float32(steps) / np.where(extent > 0, extent, np.float32(np.inf))
    codes = np.empty(values.shape, np.uint8)
    np.rint(scaled, out=codes, casting="unsafe")
    return lowest, highest, codes


def _ends(wide: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest value of each channel, float32 [C], zeros without a sign."""
    points, channels = wide.shape
    together = math.gcd(points, 8)  # of few channels, numpy is slow to compare points one by one
    folded = wide.reshape(-1, together * channels)
    lowest, highest = (ends(0).reshape(together, channels) for ends in (folded.min, folded.max))
    return lowest.min(0) + np.float32(0), highest.max(0) + np.float32(0)


def _scale(codes: np.ndarray, step: np.ndarray, lowest: np.ndarray, out: np.ndarray) -> None:
    """Write lowest + code * step into `out`, float16 [P, C], of codes uint8 [P, C].

    PyTorch takes a sixth of numpy's time for the same bits; where it is not loaded, loading it would take longer.
    """
    if (torch := sys.modules.get("torch")) is not None and out.flags.c_contiguous:
        wide = torch.from_numpy(codes).float().mul_(torch.from_numpy(step)).add_(torch.from_numpy(lowest))
        torch.from_numpy(out).copy_(wide)
    else:
        values = codes.astype(np.float32)
        values *= step
        values += lowest
        out[:] = values
