"""Geometry of a feature pyramid: how pixels of its levels lie over each other.

Level 0 is the finest. A pixel is a row number in raster order, y * W + x.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]


def square_sizes(levels: Sequence[Tensor]) -> list[Size]:
    """Sizes of levels [..., H*W, C] whose maps are square.

    Raises ValueError if a level's number of pixels is not a square.
    """
    sizes = []
    for number, level in enumerate(levels):
        side = math.isqrt(level.shape[-2])
        if side * side != level.shape[-2]:
            raise ValueError(f"level {number} has {level.shape[-2]} pixels, which is no square: give sizes=")
        sizes.append((side, side))
    return sizes


def nearest_index(size: Size, finest: Size) -> Tensor:
    """The pixel of a level of `size` under each pixel of a grid of `finest`: int64 [H0*W0].

    Row i of n fine rows lies on coarse row floor(i * c / n), in integers: rounding cannot move a boundary.
    """
    (h, w), (fine_h, fine_w) = size, finest
    y = torch.arange(fine_h) * h // fine_h
    x = torch.arange(fine_w) * w // fine_w
    return (y[:, None] * w + x).flatten()


def upsample_bilinear(features: Tensor, size: Size, finest: Size) -> Tensor:
    """Features [H*W, C] of `size` on a grid of `finest`: [H0*W0, C], as torch with align_corners=False."""
    if size == finest:
        return features
    channels = features.shape[1]
    image = features.view(1, *size, channels).permute(0, 3, 1, 2)
    up = F.interpolate(image, size=finest, mode="bilinear", align_corners=False)
    return up.permute(0, 2, 3, 1).reshape(finest[0] * finest[1], channels)


def is_nested(sizes: Sequence[Size]) -> bool:
    """Whether every pixel of a level covers a whole block of pixels of the next finer one."""
    return all(h % ch == 0 and w % cw == 0 for (h, w), (ch, cw) in pairwise(sizes))


def child_planes(size: Size, coarse: Size) -> Tensor:
    """The fine pixels under each coarse pixel: int64 [planes, H*W of the coarse level].

    Plane (dy, dx) holds the child at that offset of every coarse pixel, so that the children of a cell
    are the same column of all planes. `coarse` must divide `size`.
    """
    (h, w), (ch, cw) = size, coarse
    grid = torch.arange(h * w).view(ch, h // ch, cw, w // cw)
    return grid.permute(1, 3, 0, 2).reshape(-1, ch * cw)


@dataclass(frozen=True)
class Layout:
    """The order in which a search keeps the pixels of both sides.

    The gallery's finest pixels are kept as `planes` child planes of `cells` columns. A column takes one
    coarse term: cells are the pixels of level 1 where the levels nest, and else the finest pixels (one plane).
    Level l of the query has a number of rows that divides P, and row c % rows belongs to finest row c.
    """

    planes: int
    cells: int
    members: Tensor  # int64 [planes, cells]: finest pixel of the gallery
    cell_rows: list[Tensor]  # for levels 1..: int64 [cells], the gallery's row under a cell
    query_rows: list[Tensor]  # for every level: int64 [rows], the query's pixel at a row

    def to(self, device: torch.device) -> "Layout":
        """The same layout with its index tensors on a device."""
        return Layout(
            self.planes,
            self.cells,
            self.members.to(device),
            [rows.to(device) for rows in self.cell_rows],
            [rows.to(device) for rows in self.query_rows],
        )


def nested_layout(sizes: Sequence[Size]) -> Layout:
    """The layout of two or more levels of which each divides the one before."""
    orders = [torch.arange(sizes[-1][0] * sizes[-1][1])]
    for size, coarse in zip(sizes[-2::-1], sizes[:0:-1], strict=True):
        orders.append(child_planes(size, coarse)[:, orders[-1]].flatten())
    members = child_planes(sizes[0], sizes[1])
    cell_rows = [nearest_index(size, sizes[1]) for size in sizes[1:]]
    return Layout(members.shape[0], members.shape[1], members, cell_rows, orders[::-1])


def upsampled_layout(sizes: Sequence[Size], bilinear: bool) -> Layout:
    """The layout of any levels, all on the finest grid: read there by index, or interpolated beforehand."""
    pixels = torch.arange(sizes[0][0] * sizes[0][1])
    rows = [pixels if bilinear else nearest_index(size, sizes[0]) for size in sizes]
    return Layout(1, len(pixels), pixels[None], rows[1:], rows)
