"""How the maps of an image are stored: by which codec, and which levels of them.

Its name is the codec's where all levels are stored, `int4@1,2` where only some are. A level that is not stored was
dropped for good (see `transcode`). In lists of all levels, its map has no points: [0, C] as values, [0] as stored.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from spade_index.errors import InputError
from spade_index.settings import ExtractionSettings

from .codecs import DEFAULT, FOR_NEW_GALLERIES, MapCodec, codec_named, map_shapes
from .format import SOME_LEVELS

NAME = re.compile(r"([^@]+)@((?:0|[1-9][0-9]{0,2})(?:,[1-9][0-9]{0,2})*)", re.ASCII)
SHOWN = 40  # characters of a name that nobody gave


@dataclass(frozen=True)
class MapStorage:
    """A codec, and the levels that are stored."""

    codec: MapCodec
    levels: tuple[int, ...] | None = None  # ascending; None: all

    FLOAT16: ClassVar["MapStorage"]  # all levels, as they are

    @classmethod
    def named(cls, name: str) -> "MapStorage":
        """Return what a name states. Raises ValueError for a name that this version does not know."""
        if (some := NAME.fullmatch(name)) is None:
            return cls(codec_named(name))
        levels = tuple(map(int, some[2].split(",")))
        if levels != tuple(sorted(set(levels))):
            raise ValueError(f"its maps are stored as {name[:SHOWN]!r}, which is no ascending list of levels")
        return cls(codec_named(some[1]), levels)

    @property
    def name(self) -> str:
        """What a shard and a catalog state."""
        return self.codec.name if self.levels is None else f"{self.codec.name}@{','.join(map(str, self.levels))}"

    @property
    def version(self) -> int:
        """The first version of the format that knows this."""
        return self.codec.version if self.levels is None else max(self.codec.version, SOME_LEVELS)

    def levels_of(self, settings: ExtractionSettings) -> tuple[int, ...]:
        """Return the levels that are stored. Raises ValueError for settings that do not have them, or do not fit."""
        number = len(settings.level_shapes)
        if self.levels is not None and self.levels[-1] >= number:
            raise ValueError(f"its maps are stored as {self.name[:SHOWN]!r}, and there are {number} levels")
        levels = tuple(range(number)) if self.levels is None else self.levels
        self.codec.require_fit(settings, levels)
        return levels

    def of_levels(self, levels: Sequence[int], settings: ExtractionSettings) -> "MapStorage":
        """Return the same codec with these levels, ascending."""
        return MapStorage(self.codec, None if len(levels) == len(settings.level_shapes) else tuple(levels))

    def value_shapes(self, settings: ExtractionSettings) -> list[tuple[int, int]]:
        """Return the shape of each level's map, [P, C], or [0, C] where it is not stored."""
        there = self.levels_of(settings)
        return [(p if level in there else 0, c) for level, (p, c) in enumerate(map_shapes(settings))]

    def stored_shapes(self, settings: ExtractionSettings) -> list[tuple[int, ...]]:
        """Return the shape of what is stored of each level's map, or [0]."""
        shapes = enumerate(self.value_shapes(settings))
        return [self.codec.of_level(level).stored_shape(*shape) if shape[0] else (0,) for level, shape in shapes]

    def map_bytes(self, settings: ExtractionSettings) -> int:
        """Return the bytes that an image's maps take."""
        return sum(map(math.prod, self.stored_shapes(settings))) * np.dtype(self.codec.dtype).itemsize

    def encode(self, values: np.ndarray, level: int) -> np.ndarray:
        """Return what is stored of a level's map, float16 [P, C]."""
        if self.levels is not None and level not in self.levels:
            return np.empty(0, self.codec.dtype)
        if not len(values):
            raise ValueError(f"level {level} was dropped: it cannot be stored as {self.name}")
        return self.codec.of_level(level).encode(values)


MapStorage.FLOAT16 = MapStorage(codec_named(DEFAULT))
NEW_MAPS = MapStorage(codec_named(FOR_NEW_GALLERIES))


class OtherCodes(Exception):
    """Some images are stored by another codec than their gallery states: a compaction has not come to them."""


def require_stored(path: object, stored: Sequence[int], levels: Sequence[int]) -> None:
    """Raise InputError if a search asks for levels that a gallery has dropped."""
    if gone := [level for level in levels if level not in stored]:
        many = len(gone) > 1
        named = f"level{'s' * many} {listed(gone)}"
        raise InputError(
            f"{path} stores {named} no more: `compact --levels` dropped {'them' if many else 'it'}; search with "
            f"--compared-levels {listed(stored)} or some of these, or build the gallery again"
        )


def listed(levels: Sequence[int]) -> str:
    """Return levels as `--levels` takes them."""
    return ",".join(map(str, levels))
