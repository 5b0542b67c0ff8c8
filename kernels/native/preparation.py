"""Prepare stored maps for the search: average them to the grid of comparison, scale cells, join levels of one size."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..pyramid import Size
from . import library as c
from .cells import SIDE

SCALINGS = ("none", "length", "root", "channel")  # by number, as in nearest.h


@dataclass(frozen=True)
class Scaled:
    """How a level is prepared."""

    size: Size  # as it is stored
    grid: Size  # that it is averaged to
    channels: int
    scaling: str  # a name in SCALINGS
    factor: float  # of the scaled values
    length: float = 0.0  # `root`: of vectors, in the mean
    mean: np.ndarray | None = None  # `channel`: float32 [C]
    deviation: np.ndarray | None = None  # `channel`: float32 [C]


class Preparation:
    """Prepares the levels of maps, as `Comparison` does in torch, in a fraction of the time."""

    def __init__(self, levels: Sequence[Scaled], joined: Sequence[range], instructions: str | None = None) -> None:
        """Say how each level is prepared, and which of them are joined, one after the other, to one of the results."""
        self._instructions = c.number(instructions)
        self._joined = joined
        self._cell = np.empty(max(level.channels for level in levels) + SIDE, np.float32)
        self._parts = (c.Part * len(levels))()
        self._kept = []  # what parts point to
        for part, level in zip(self._parts, levels, strict=True):
            part.height, part.width = level.size
            part.rows, part.columns = level.grid
            part.channels, part.scaling = level.channels, SCALINGS.index(level.scaling)
            part.length, part.factor = level.length, level.factor
            if level.mean is not None and level.deviation is not None:
                of = level.mean.astype(np.float32), 1 / level.deviation.astype(np.float32)
                part.mean, part.scale = (values.ctypes.data for values in of)
                self._kept.append(of)
        for levels_of in joined:
            stride = sum(levels[number].channels for number in levels_of)
            for number in levels_of:
                self._parts[number].stride = stride

    def write(self, levels: Sequence[np.ndarray], out: Sequence[np.ndarray]) -> None:
        """Write one image's levels, float16 [H*W, C], prepared, to `out`, float16 [H*W, C] of each result.

        Raises ValueError unless all of them are contiguous and float16.
        """
        if not all(array.flags.c_contiguous and array.dtype == np.float16 for array in (*levels, *out)):
            raise ValueError("maps must be float16 and contiguous")
        for part, values in zip(self._parts, levels, strict=True):
            part.values = values.ctypes.data
        for levels_of, result in zip(self._joined, out, strict=True):
            address = result.ctypes.data
            for level in levels_of:
                self._parts[level].out = address
                address += 2 * self._parts[level].channels
        c.library().spade_prepare_parts(self._instructions, self._parts, len(self._parts), self._cell.ctypes.data)
