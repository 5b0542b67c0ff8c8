"""Codes that gallery maps are kept in: what the search needs of the codecs of `gallery.store`, whose bits these are."""

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from .preparation import Preparation

ALIGNED = 16  # bytes: slots start at multiples of it
TOGETHER = 8  # maps that torch decodes at a time: their float32 values take memory
HALF = 65504.0  # the largest float16


class LevelCode(Protocol):
    """How the map of a level is kept."""

    def size(self, points: int, channels: int) -> int:
        """Return the bytes of a map [P, C]."""

    def decode(self, stored: Tensor, points: int, channels: int) -> Tensor:
        """Return maps float16 [n, P, C] of what is stored, uint8 [n, bytes]."""

    def to(self, device: torch.device) -> "LevelCode":
        """Return this for codes on a device."""


@dataclass(frozen=True)
class Values:
    """float16 values, as they are."""

    def size(self, points: int, channels: int) -> int:
        """Return the bytes of a map [P, C]."""
        return 2 * points * channels

    def decode(self, stored: Tensor, points: int, channels: int) -> Tensor:
        """Return the maps float16 [n, P, C]."""
        return stored.reshape(-1).view(torch.float16).view(-1, points, channels)

    def to(self, device: torch.device) -> "Values":
        """Return this."""
        return self


@dataclass(frozen=True)
class Scalars:
    """Whole numbers between each channel's lowest and highest value: of 8 bits, or of 4, the first in a low half."""

    bits: int

    def size(self, points: int, channels: int) -> int:
        """Return the bytes of lowest and highest, float16 [C], and of codes [P, C]."""
        return 4 * channels + math.ceil(points * channels * self.bits / 8)

    def decode(self, stored: Tensor, points: int, channels: int) -> Tensor:
        """Return lowest + code * (highest - lowest) / steps, computed in float32, as float16 [n, P, C]."""
        ends = stored[:, : 4 * channels].reshape(-1).view(torch.float16).float().view(-1, 2, 1, channels)
        codes = stored[:, 4 * channels :]
        if self.bits == 4:
            codes = torch.stack([codes & 15, codes >> 4], 2).flatten(1)[:, : points * channels]
        lowest, highest = ends.unbind(1)  # [n, 1, C]
        step = (highest - lowest) / highest.new_full(
            (), (1 << self.bits) - 1
        )  # by a number, a GPU multiplies with 1 / number
        return (codes.reshape(-1, points, channels).float() * step + lowest).half()

    def to(self, device: torch.device) -> "Scalars":
        """Return this."""
        return self


@dataclass(frozen=True, eq=False)
class TableRows:
    """Sums of rows of tables: the first bytes of a pixel name rows over all channels, the others of a few channels."""

    unit: float  # that tables hold whole numbers of
    whole: Tensor  # int16 [tables, 256, C]
    parts: Tensor  # int16 [parts, 256, width], one after the other; the last may reach beyond C

    @property
    def pixel_bytes(self) -> int:
        """The bytes of a pixel."""
        return len(self.whole) + len(self.parts)

    def size(self, points: int, channels: int) -> int:
        """Return the bytes of a map of P pixels."""
        return points * self.pixel_bytes

    def decode(self, stored: Tensor, points: int, channels: int) -> Tensor:
        """Return the sums of rows, cut off at the largest float16, as float16 [n, P, C]."""
        codes = stored.reshape(len(stored), points, self.pixel_bytes).long()
        units = torch.zeros(len(stored), points, channels, dtype=torch.int32, device=stored.device)
        if len(self.parts):
            numbers = torch.arange(len(self.parts), device=stored.device)
            rows = self.parts[numbers, codes[:, :, len(self.whole) :]]  # [n, P, parts, width]
            units += rows.flatten(2)[:, :, :channels]
        for number, table in enumerate(self.whole):
            units += table[codes[:, :, number]]
        return (units.float() * self.unit).clamp_(-HALF, HALF).half()

    def to(self, device: torch.device) -> "TableRows":
        """Return this with its tables on a device."""
        return replace(self, whole=self.whole.to(device), parts=self.parts.to(device))


@dataclass(frozen=True, eq=False)
class Coding:
    """How the levels of maps are kept, and how they are prepared for the search once they are decoded."""

    codes: tuple[LevelCode, ...]
    preparation: Preparation

    @property
    def sizes(self) -> list[int]:
        """The bytes of each level of an image."""
        of = zip(self.codes, self.preparation.levels, strict=True)
        return [code.size(math.prod(level.size), level.channels) for code, level in of]

    @property
    def map_bytes(self) -> int:
        """The bytes of an image."""
        return sum(map(_padded, self.sizes))

    def empty(self, slots: int, device: torch.device) -> "CodedMaps":
        """Return room for the maps of images, filled with zeros."""
        stored = [torch.zeros(slots, _padded(size), dtype=torch.uint8, device=device) for size in self.sizes]
        return CodedMaps(self.to(device), stored)

    def to(self, device: torch.device) -> "Coding":
        """Return this with tables and moments on a device."""
        return Coding(tuple(code.to(device) for code in self.codes), self.preparation.to(device))


def _padded(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


@dataclass(frozen=True, eq=False)
class CodedMaps:
    """Gallery maps in codes, one slot per image: searched as the float16 values that they stand for, prepared."""

    coding: Coding
    stored: list[Tensor]  # uint8 [slots, bytes] of each level, padded

    @property
    def slots(self) -> int:
        """The number of slots."""
        return len(self.stored[0])

    def decoded(self, slots: Tensor) -> list[Tensor]:
        """Return the maps of slots int64 [n], prepared: float16 [n, H*W, C] of each level that is compared."""
        prepared = self.coding.preparation
        shapes = zip(prepared.sizes, prepared.channels, strict=True)
        out = [slots.new_empty(len(slots), h * w, c, dtype=torch.float16) for (h, w), c in shapes]
        for first in range(0, len(slots), TOGETHER):
            some = slice(first, first + TOGETHER)
            for level, values in zip(out, self._decoded(slots[some]), strict=True):
                level[some] = values
        return out

    def _decoded(self, slots: Tensor) -> list[Tensor]:
        levels = []
        of = zip(self.stored, self.coding.sizes, self.coding.codes, self.coding.preparation.levels, strict=True)
        for stored, size, code, level in of:
            levels.append(code.decode(stored[slots, :size], math.prod(level.size), level.channels).float())
        return self.coding.preparation.of(levels)

    def gathered(self, pages: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the maps that pages [B, K] name as a pool of values, and their pages in it."""
        slots, pages = pages.to(self.stored[0].device).unique(return_inverse=True)
        return self.decoded(slots), pages
