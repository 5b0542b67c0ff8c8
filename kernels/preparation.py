"""How maps are prepared for the search: averaged to the grid of comparison, scaled cell by cell, joined.

Cells are averaged first, then a cell's vector x in a level is scaled to

    none     x
    root     x / sqrt(|x| m), m the mean of |x| over a sample of the gallery: half way between `none` and `length`
    length   x / |x|
    channel  y / |y|, y = (x - mean) / deviation of each channel over the sample

and multiplied by a factor. Levels of one size are joined: one product of matrices in place of two.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .pyramid import Size, average

SCALINGS = ("none", "length", "root", "channel")
SMALLEST = 1e-6  # that a vector is divided by


@dataclass(frozen=True, eq=False)
class Scaled:
    """How a level is prepared."""

    size: Size  # as it is stored
    grid: Size  # that it is averaged to
    channels: int
    scaling: str = "none"  # a name in SCALINGS
    factor: float = 1.0  # of the scaled values
    length: float = 0.0  # `root`: of vectors, in the mean
    mean: Tensor | None = None  # `channel`: float32 [C]
    deviation: Tensor | None = None  # `channel`: float32 [C]

    def of(self, level: Tensor) -> Tensor:
        """Return a level [B, H*W, C], prepared; as it is, if nothing is to be done."""
        level = average(level, self.size, self.grid)
        if self.scaling == "length":
            level = F.normalize(level, dim=-1)
        elif self.scaling == "root":
            level = level / (level.norm(dim=-1, keepdim=True) * self.length).sqrt().clamp_min(SMALLEST)
        elif self.mean is not None and self.deviation is not None:
            level = F.normalize((level - self.mean.to(level.device)) / self.deviation.to(level.device), dim=-1)
        return level if self.factor == 1 else level * self.factor

    def to(self, device: torch.device) -> "Scaled":
        """Return this with its moments on a device."""
        mean, deviation = (None if of is None else of.to(device) for of in (self.mean, self.deviation))
        return replace(self, mean=mean, deviation=deviation)


@dataclass(frozen=True, eq=False)
class Preparation:
    """How the levels of a pyramid are prepared, and which of them are joined, one after the other, to one."""

    levels: tuple[Scaled, ...]
    joined: tuple[range, ...]

    @property
    def sizes(self) -> list[Size]:
        """(H, W) of each level of the result."""
        return [self.levels[of[0]].grid for of in self.joined]

    @property
    def channels(self) -> list[int]:
        """The channels of each level of the result."""
        return [sum(self.levels[level].channels for level in of) for of in self.joined]

    @property
    def changes_nothing(self) -> bool:
        """Whether the result is what is given."""
        kept = all(level.grid == level.size and level.scaling == "none" and level.factor == 1 for level in self.levels)
        return kept and len(self.joined) == len(self.levels)

    def of(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Return levels [B, H*W, C], prepared."""
        done = [how.of(level) for how, level in zip(self.levels, levels, strict=True)]
        return [torch.cat([done[level] for level in of], -1) if len(of) > 1 else done[of[0]] for of in self.joined]

    def to(self, device: torch.device) -> "Preparation":
        """Return this with all moments on a device."""
        return replace(self, levels=tuple(level.to(device) for level in self.levels))
