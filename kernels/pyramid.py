"""Geometry of a feature pyramid: which pixels of its levels cover each other.

Level 0 is the finest. A pixel is a row number in raster order, y * W + x.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]

TILE = 128  # finest pixels of a compact part of a query, approximately


def square_sizes(levels: Sequence[Tensor]) -> list[Size]:
    """Return the sizes (H, W) of levels [..., H*W, C] whose maps are square.

    Raises ValueError if a level's number of pixels is not a square.
    """
    sizes = []
    for number, level in enumerate(levels):
        side = math.isqrt(level.shape[-2])
        if side * side != level.shape[-2]:
            raise ValueError(f"level {number} has {level.shape[-2]} pixels, which is not a square: give sizes=")
        sizes.append((side, side))
    return sizes


def nearest_index(size: Size, finest: Size) -> Tensor:
    """Return the pixel of a level of `size` that covers each pixel of a grid of `finest`: int64 [H0*W0].

    Row i of n fine rows lies on coarse row floor(i * c / n), in integers, so that rounding cannot move a boundary.
    """
    (h, w), (fine_h, fine_w) = size, finest
    y = torch.arange(fine_h) * h // fine_h
    x = torch.arange(fine_w) * w // fine_w
    return (y[:, None] * w + x).flatten()


def average(level: Tensor, size: Size, wanted: Size) -> Tensor:
    """Average a level [B, H*W, C] of `size` (H, W) to `wanted`."""
    if size == wanted:
        return level
    image = level.unflatten(1, size).permute(0, 3, 1, 2)  # [B, C, H, W]
    return F.adaptive_avg_pool2d(image, wanted).permute(0, 2, 3, 1).flatten(1, 2)


def upsample_bilinear(features: Tensor, size: Size, finest: Size) -> Tensor:
    """Interpolate features [H*W, C] of `size` to `finest`: [H0*W0, C], as torch does with align_corners=False."""
    if size == finest:
        return features
    channels = features.shape[1]
    image = features.view(1, *size, channels).permute(0, 3, 1, 2)
    up = F.interpolate(image, size=finest, mode="bilinear", align_corners=False)
    return up.permute(0, 2, 3, 1).reshape(finest[0] * finest[1], channels)


def bilinear_taps(size: Size, finest: Size) -> tuple[Tensor, Tensor]:
    """Return the pixels of a level of `size` from which each pixel of `finest` is interpolated, and their weights.

    int64 [4, H0*W0] and float32 [4, H0*W0]. With them, single pixels of `upsample_bilinear` can be computed.
    """
    (y, y_next, v), (x, x_next, u) = (_axis_taps(n, fine) for n, fine in zip(size, finest, strict=True))
    w = size[1]
    rows = [(a[:, None] * w + b).flatten() for a in (y, y_next) for b in (x, x_next)]
    weights = [(a[:, None] * b).flatten() for a in (1 - v, v) for b in (1 - u, u)]
    return torch.stack(rows), torch.stack(weights).float()


def _axis_taps(n: int, fine: int) -> tuple[Tensor, Tensor, Tensor]:
    at = ((torch.arange(fine, dtype=torch.float64) + 0.5) * (n / fine) - 0.5).clamp_(min=0)
    first = at.long().clamp_(max=n - 1)
    return first, (first + 1).clamp_(max=n - 1), at - first


@dataclass(frozen=True)
class Layout:
    """The finest level cut into cells: rectangles of pixels that one pixel of every coarser level covers.

    A pair of cells thus has one distance on the coarse levels. The pixels of a cell form a column of `planes` child
    planes, so that the minimum over a cell's pixels is an element-wise minimum of planes.
    """

    members: Tensor  # int64 [planes, cells]: the pixels of a cell, its first in row 0; smaller cells repeat their last
    cell_of: Tensor  # int64 [P]: the cell of each pixel
    rows: list[Tensor]  # for levels 1..: int64 [H*W], the order in which the level's pixels are stored
    places: list[Tensor]  # for levels 1..: int64 [cells], the place in `rows` of the pixel that covers each cell
    periodic: bool  # whether the `places` of every level repeat 0..H*W-1
    tiles: list[Tensor]  # compact parts of the grid of cells, of about TILE pixels each: int64 [cells of the part]

    @property
    def planes(self) -> int:
        """The number of pixels of a cell."""
        return self.members.shape[0]

    @property
    def cells(self) -> int:
        """The number of cells of an image."""
        return self.members.shape[1]

    def to(self, device: torch.device) -> "Layout":
        """Return the same layout on a device."""
        lists = ([t.to(device) for t in tensors] for tensors in (self.rows, self.places, self.tiles))
        rows, places, tiles = lists
        return Layout(self.members.to(device), self.cell_of.to(device), rows, places, self.periodic, tiles)


def make_layout(sizes: Sequence[Size], bilinear: bool = False, raster: bool = False) -> Layout:
    """Return the layout of a pyramid. Without coarse levels, or with interpolated ones, cells are the finest pixels.

    Cells are in raster order if `raster`; otherwise their order makes the places of nested levels periodic. The layout
    is kept for later calls: do not change its tensors.
    """
    return _make_layout(tuple(sizes), bilinear, raster)


@lru_cache(maxsize=64)
def _make_layout(sizes: tuple[Size, ...], bilinear: bool, raster: bool) -> Layout:
    coarse = [] if bilinear else list(sizes[1:])
    y, x = (_cells_of_axis(sizes[0][axis], [size[axis] for size in coarse]) for axis in (0, 1))
    grid = (y.shape[1], x.shape[1])
    members = (y[:, None, :, None] * sizes[0][1] + x[None, :, None, :]).reshape(-1, grid[0] * grid[1])
    places = [nearest_index(size, sizes[0])[members[0]] for size in coarse]
    rows = [torch.arange(h * w) for h, w in coarse]
    order = torch.arange(grid[0] * grid[1])
    periodic = bool(coarse) and not raster and is_nested(sizes)
    if periodic:  # cells are the pixels of level 1, in an order that makes each coarser level periodic
        for level in range(len(coarse) - 2, -1, -1):
            rows[level] = _child_planes(coarse[level], coarse[level + 1])[:, rows[level + 1]].flatten()
        order = rows[0]
        places = [torch.arange(len(order)) % len(r) for r in rows]
    members = members[:, order]
    cell_of = torch.empty(sizes[0][0] * sizes[0][1], dtype=torch.int64)
    cell_of[members] = torch.arange(len(order)).expand_as(members)
    return Layout(members, cell_of, rows, places, periodic, _tiles(grid, len(members), order))


def is_nested(sizes: Sequence[Size]) -> bool:
    """Return whether every pixel of a level covers a whole block of pixels of the next finer level."""
    return all(h % ch == 0 and w % cw == 0 for (h, w), (ch, cw) in pairwise(sizes))


def _child_planes(size: Size, coarse: Size) -> Tensor:
    """Return the block of fine pixels that each coarse pixel covers: int64 [planes, H*W of the coarse level]."""
    (h, w), (ch, cw) = size, coarse
    grid = torch.arange(h * w).view(ch, h // ch, cw, w // cw)
    return grid.permute(1, 3, 0, 2).reshape(-1, ch * cw)


def _cells_of_axis(fine: int, coarse: Sequence[int]) -> Tensor:
    """Return the runs of finest coordinates with the same coordinate on every coarse level: int64 [longest, runs].

    Shorter runs repeat their last coordinate.
    """
    if not coarse:
        return torch.arange(fine)[None]
    runs = [list(run) for _, run in groupby(range(fine), key=lambda i: [i * n // fine for n in coarse])]
    longest = max(len(run) for run in runs)
    return torch.tensor([run + run[-1:] * (longest - len(run)) for run in runs]).T.contiguous()


def _tiles(grid: Size, planes: int, order: Tensor) -> list[Tensor]:
    """Cut a grid of cells into nearly square parts: for each, its cells as places in `order`."""
    side = max(1.0, math.sqrt(TILE / planes))
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    down, across = (max(1, round(cells / side)) for cells in grid)
    return [part.flatten() for row in place.view(grid).tensor_split(down) for part in row.tensor_split(across, dim=1)]
