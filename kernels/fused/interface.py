"""Interface of a fused backend: its kernels, and the record that each is launched with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..codes import CodedMaps
from .geometry import Geometry
from .maps import FusedMaps, ScaledRows


@dataclass(frozen=True)
class Launch:
    """A group of queries and the gallery maps that each is compared with."""

    geometry: Geometry
    maps: FusedMaps
    pages: Tensor  # int32 [B, K], contiguous: the slots of each query's neighbours
    weights: Sequence[float]  # of each level
    first_position: int = 0  # of `pages` in the whole pages of these queries

    @property
    def batch(self) -> int:
        """The number of queries, B."""
        return self.pages.shape[0]

    @property
    def positions(self) -> int:
        """The number of neighbours of a query, K."""
        return self.pages.shape[1]


class Kernels(Protocol):
    """The four kernels of a fused search, the one of a search in a window, and what decodes maps for them.

    All tensors are contiguous and on one device.

    A distance "less |q|^2" is |g|^2 - 2 q.g, which ranks the gallery's pixels alike.
    """

    dtype: torch.dtype  # of both sides of products
    tile_rows: int  # query rows of a tile of `block_minima`: a power of two
    block_cells: int  # cells of a block

    def decode(self, coded: CodedMaps, slots: Tensor, maps: FusedMaps) -> None:
        """Write the maps of slots int64 [n], decoded and prepared, into the first n slots of float16 maps."""

    def coarse_distances(self, launch: Launch, level: int, rows: ScaledRows, coarser: Tensor | None) -> Tensor:
        """Return a coarse level's weighted distances less |q|^2: float32 [B, H*W, K, H*W].

        `coarser`, float32 [B, h*w, K, h*w] of the next coarser level, is added at the pixels that cover these
        (`Geometry.parents`).
        """

    def block_minima(self, launch: Launch, rows: ScaledRows, coarse: Tensor | None) -> Tensor:
        """Return the least distance less |q|^2 in each block of cells: float32 [B, query rows, K * blocks].

        `coarse`, float32 [B, cells, K, cells], is the coarse levels' part.
        """

    def rescan(self, launch: Launch, query: Tensor, minima: Tensor, coarse: Tensor | None, count: int) -> Tensor:
        """Return the keys (see `split_keys`) of all pixels in the `count` blocks of the least minima: int64 [B, P, n].

        `query` is the finest level, [B, P, C]; `minima` and `coarse` are those of `block_minima`.
        """

    def differences(self, launch: Launch, level: int, query: Tensor, matches: Tensor, distances: Tensor) -> None:
        """Add a level's weighted squared distances to `distances`, float32 [B, P, n].

        `query` is the level, [B, H*W, C]; `matches` are int64 [B, P, n], of the whole pages.
        """

    def window_distances(self, launch: Launch, level: int, query: Tensor, shift: int, reach: int) -> Tensor:
        """Return a level's squared distances, not weighted, to pixels near the same place.

        Each pixel of `query`, the level [B, H*W, C], is compared with those `shift` rows below it and -reach..reach
        columns beside it: float32 [B, K, 2 * reach + 1, H*W], infinity where that is outside the grid.
        """


MakeKernels = Callable[[torch.dtype, int], Kernels]
"""Makes a backend's kernels for maps of a type and of a number of cells."""


def split_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distances float32 and the matches int64 of int64 keys, which order by distance and then by match.

    The upper half of a key holds the distance's bits, with all but the sign inverted where it is negative; the lower
    half holds the match.
    """
    bits = (keys >> 32).int()
    return (bits ^ (bits >> 31 & 0x7FFFFFFF)).view(torch.float32), keys & 0xFFFFFFFF
