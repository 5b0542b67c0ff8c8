"""The codec `pq`: the vector of each place is a sum of rows of tables that were trained on a gallery's own images.

A level's places take the same number of bytes each. The first three bytes name rows of tables over all channels: of the
nearest vector, then of the nearest to what is left, and so on. Each further byte names a row of a table over a few
channels, which are cut into parts of one width, the last of them narrower.

Tables hold whole numbers of a unit, a power of two. Sums of them are exact, in any order and on any machine, so codes
and values are the same to the bit everywhere. A gallery's catalog keeps the tables, and the codec's name their digest.
"""

import hashlib
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from spade_index.settings import ExtractionSettings

from .native import native_codes
from .quantizer_tables import HALF, NARROWEST, ROWS, WHOLE, Parts, Tables, nearest

KIND = "pq"
TWENTIETH = 20  # of the bytes of all levels as float16: what the codes of an image may take
NAME = re.compile(rf"{KIND}((?:\.[0-9]{{1,5}}){{1,99}})\.([0-9a-f]{{32}})", re.ASCII)


def sizes_for(settings: ExtractionSettings, levels: Sequence[int]) -> tuple[int, ...]:
    """Return the bytes of a place of each level; zero for one that is not among `levels`.

    Together they take a twentieth of what all levels take as float16, each level as much as the others, but a byte for
    each place at least. What a level does not need is left to finer ones.
    """
    shapes = [(channels, height * width) for channels, height, width in settings.level_shapes]
    left = sum(2 * channels * points for channels, points in shapes) / TWENTIETH
    sizes = [0] * len(shapes)
    for done, level in enumerate(sorted(levels, reverse=True)):
        channels, points = shapes[level]
        finest = WHOLE + math.ceil(channels / NARROWEST)
        share = int(left / (len(levels) - done) / points)
        sizes[level] = Parts.of(channels, min(max(share, 1), finest)).size
        left -= sizes[level] * points
    return tuple(sizes)


@dataclass(frozen=True)
class LevelQuantizer:
    """How a level's map is stored: see the module."""

    name: str
    size: int  # bytes of a place
    tables: Tables | None  # None: only shapes are known

    def stored_shape(self, points: int, channels: int) -> tuple[int, ...]:
        """Return [bytes]."""
        return (points * self.size,)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Return uint8 [bytes]: those of each place, in raster order."""
        tables = self.tables_at_hand()
        left = tables.units(values)  # [P, C]
        codes = np.empty((len(left), tables.size), np.uint8)
        for number, table in enumerate(tables.whole):
            codes[:, number] = chosen = nearest(left, table)
            left -= table[chosen]
        width = tables.parts.shape[-1]
        for number, table in enumerate(tables.parts):
            part = left[:, number * width : (number + 1) * width]
            codes[:, len(tables.whole) + number] = nearest(part, table[:, : part.shape[1]])
        return codes.ravel()

    def require_sound(self, stored: np.ndarray, channels: int) -> None:
        """Do nothing: all bytes name rows."""

    def decode(self, stored: np.ndarray, out: np.ndarray) -> None:
        """Write the sums of the rows that codes name."""
        tables = self.tables_at_hand()
        whole, parts = tables.scaled
        codes = stored.reshape(len(out), self.size)
        if (native := native_codes(codes, whole, parts, out)) is not None:
            native.decode_rows(codes, whole, parts, out)
            return
        if number := len(tables.parts):
            rows = codes[:, len(whole) :] + np.arange(0, number * ROWS, ROWS)
            values = parts.take(rows, 0, mode="clip").reshape(len(codes), -1)[:, : out.shape[1]]
        else:
            values = np.zeros(out.shape, np.float32)
        for table, rows in zip(whole, codes[:, : len(whole)].T.astype(np.intp), strict=True):
            values += table.take(rows, 0, mode="clip")  # no code is beyond: `clip` saves a copy
        if not tables.within_half:
            np.clip(values, -HALF, HALF, out=values)
        if (torch := sys.modules.get("torch")) is not None and out.flags.c_contiguous:  # see `codecs`
            torch.from_numpy(out).copy_(torch.from_numpy(values))
        else:
            out[:] = values

    def attributes(self, points: int, channels: int) -> dict[str, Any]:
        """Return what a stranger needs to decode a row, besides the tables in the catalog."""
        parts = Parts.of(channels, self.size)
        each = f", then for each {parts.width} channels a row of a table [256, {parts.width}]" if parts.number else ""
        return {
            "codec": self.name,
            "shape": np.array([points, channels], "<i8"),
            "row": f"{self.size} codes of 8 bits for each place, raster order",
            "value": f"unit * sum of a row of each of {parts.whole} tables [256, {channels}]{each}; the table "
            "`quantizers` of the catalog holds them by the codec's name: of each level unit <f8, then all tables <i2, "
            "then of each channel the root mean square <f4 of what they leave",
        }

    @property
    def errors(self) -> np.ndarray | None:
        """The root mean square of what codes leave of each channel, float32 [C]; None if that is not known."""
        return None if self.tables is None else self.tables.errors

    def tables_at_hand(self) -> Tables:
        """Return the tables. Raises ValueError if only shapes are known."""
        if self.tables is None:
            raise ValueError(f"the tables of {self.name} are not at hand")
        return self.tables


@dataclass(frozen=True)
class Quantized:
    """The codec `pq` with one set of tables, which may not be at hand: then shapes are all that it knows."""

    sizes: tuple[int, ...]  # bytes of a place of each level; zero for a level without tables
    digest: str  # of the tables
    tables: tuple[Tables | None, ...] = field(default=(), compare=False, repr=False)  # of each level
    kind: ClassVar[str] = KIND
    dtype: ClassVar[str] = "|u1"
    version: ClassVar[int] = 4

    @classmethod
    def by(cls, tables: Sequence[Tables | None]) -> "Quantized":
        """Return the codec with these tables of each level; None: it is not stored."""
        sizes = tuple(of.size if of else 0 for of in tables)
        return cls(sizes, _digest(_bytes(tables)), tuple(tables))

    @classmethod
    def named(cls, name: str) -> "Quantized | None":
        """Return the codec of a name without its tables; None for another codec's."""
        found = NAME.fullmatch(name)
        codec = found and cls(tuple(map(int, found[1].split(".")[1:])), found[2])
        return codec if codec and codec.name == name else None

    @cached_property
    def name(self) -> str:
        """What a shard and a catalog state: the bytes of a place of each level, and the digest of the tables."""
        return ".".join([KIND, *map(str, self.sizes), self.digest])

    def of_level(self, level: int) -> LevelQuantizer:
        """Return how a level's map is stored."""
        return self._levels[level]

    @cached_property
    def _levels(self) -> list[LevelQuantizer]:
        tables = self.tables or (None,) * len(self.sizes)
        return [LevelQuantizer(self.name, *of) for of in zip(self.sizes, tables, strict=True)]

    def require_fit(self, settings: ExtractionSettings, levels: Sequence[int]) -> None:
        """Raise ValueError unless it can store these levels of such maps."""
        channels = [shape[0] for shape in settings.level_shapes]
        fit = len(channels) == len(self.sizes) and all(
            not size or Parts.of(of, size).size == size for of, size in zip(channels, self.sizes, strict=True)
        )
        if not fit or not all(self.sizes[level] for level in levels):
            raise ValueError(f"its maps are stored as {self.name[:40]!r}, which does not fit its levels")

    def bytes_for(self, settings: ExtractionSettings) -> tuple[int, int]:
        """Return the size of its tables, as `to_bytes` returns them: with errors, and without."""
        return sum(self._lengths(settings)), sum(self._lengths(settings, errors=False))

    def to_bytes(self) -> bytes:
        """Return its tables, for the catalog."""
        return _bytes(self.tables)

    def with_tables(self, data: bytes, settings: ExtractionSettings) -> "Quantized":
        """Return the codec with its tables, as `to_bytes` returned them. Raises ValueError if they are others."""
        sizes = self.bytes_for(settings)
        if len(data) not in sizes or _digest(data) != self.digest:
            raise ValueError("the tables of its maps have changed since they were written")
        tables: list[Tables | None] = []
        lengths = self._lengths(settings, errors=len(data) == sizes[0])
        for size, length, shape in zip(self.sizes, lengths, settings.level_shapes, strict=True):
            tables.append(Tables.from_bytes(data[:length], shape[0], size) if size else None)
            data = data[length:]
        return replace(self, tables=tuple(tables))

    def _lengths(self, settings: ExtractionSettings, errors: bool = True) -> list[int]:
        of = zip(self.sizes, settings.level_shapes, strict=True)
        return [Tables.bytes_for(shape[0], size, errors) if size else 0 for size, shape in of]


UNTRAINED = Quantized((), "")  # what is asked for before there are tables


def _bytes(tables: Sequence[Tables | None]) -> bytes:
    return b"".join(of.to_bytes() for of in tables if of)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
