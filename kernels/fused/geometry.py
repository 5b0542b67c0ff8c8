"""The index tensors by which the fused kernels find their way in a pyramid."""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from ..pyramid import Layout, Size, is_nested, make_layout, nearest_index

PLANES_TOGETHER = 16  # most planes of a query whose rows lie in one tile


@dataclass(frozen=True)
class Geometry:
    """Index tensors of one pyramid, on one device.

    A cell is a rectangle of finest pixels that one pixel of every coarser level covers (see `pyramid.Layout`). A
    gallery map's level 0 is stored as child planes of cells; a query's level 0 in tiles, with planes of the same few
    cells side by side.
    """

    sizes: list[Size]
    planes: int
    cells: int
    nested: bool
    query_order: Tensor  # int64 [query rows]: the pixel of each query row
    row_cells: Tensor  # int32 [query rows]: the cell of each query row
    query_row: Tensor  # int32 [P]: the query row of each pixel
    pixel_cells: Tensor  # int32 [P]: the cell of each pixel
    members: Tensor  # int64 [planes * cells]: the pixel of each gallery row
    cell_pixels: Tensor  # int32 [planes * cells]: the same, with -1 where a cell repeats a pixel
    gallery_row: Tensor  # int32 [P]: the gallery row of each pixel
    level_pixels: list[Tensor]  # for every level: int32 [P], the level's pixel that covers each finest pixel
    parents: list[Tensor]  # for nested levels 1..: int32 [H*W], the pixel of the next coarser level that covers each
    level_cells: list[Tensor]  # for levels 1..: int64 [cells], the level's pixel that covers each cell

    @property
    def pixels(self) -> int:
        """The number of finest pixels, P."""
        return self.sizes[0][0] * self.sizes[0][1]


def raster_layout(sizes: tuple[Size, ...]) -> Layout:
    """Return a pyramid's layout with cells in raster order, on the CPU."""
    return make_layout(sizes, raster=True)


@lru_cache(maxsize=16)
def make_geometry(sizes: tuple[Size, ...], tile_rows: int, device: torch.device) -> Geometry:
    """Return the geometry of a pyramid for tiles of `tile_rows` query rows, a power of two."""
    layout = raster_layout(sizes)
    query_order, row_cells = _order_query(layout, tile_rows)
    query_row = torch.empty(sizes[0][0] * sizes[0][1], dtype=torch.int64)
    query_row[query_order] = torch.arange(len(query_order))
    members = layout.members.flatten()
    rows = torch.arange(len(members))
    gallery_row = torch.full_like(query_row, len(members)).scatter_reduce_(0, members, rows, "amin")
    nested = is_nested(sizes)
    level_pixels = [nearest_index(size, sizes[0]) for size in sizes]
    parents = [nearest_index(coarser, size) for size, coarser in pairwise(sizes[1:])] if nested else []

    def indices(tensor: Tensor) -> Tensor:
        return tensor.flatten().int().to(device)

    return Geometry(
        sizes=list(sizes),
        planes=layout.planes,
        cells=layout.cells,
        nested=nested,
        query_order=query_order.to(device),
        row_cells=indices(row_cells),
        query_row=indices(query_row),
        pixel_cells=indices(layout.cell_of),
        members=members.to(device),
        cell_pixels=indices(members.masked_fill(gallery_row[members] != rows, -1)),
        gallery_row=indices(gallery_row),
        level_pixels=[indices(pixels) for pixels in level_pixels],
        parents=[indices(pixels) for pixels in parents],
        level_cells=[pixels[layout.members[0]].to(device) for pixels in level_pixels[1:]],
    )


def _order_query(layout: Layout, tile_rows: int) -> tuple[Tensor, Tensor]:
    """Order a query's pixels in tiles: the pixel and the cell of each row, int64 [query rows] each.

    A tile holds as many planes of the same cells as a power of two allows. The last tile repeats the last cell.
    """
    together = min(layout.planes & -layout.planes, PLANES_TOGETHER, tile_rows)
    rows = math.ceil(layout.cells * together / tile_rows) * tile_rows
    cells = torch.arange(rows // together).clamp_(max=layout.cells - 1)
    by_tile = cells.view(-1, 1, tile_rows // together).expand(-1, together, -1)  # [tiles, planes together, cells]
    planes = torch.arange(layout.planes).view(-1, 1, together, 1)  # [groups of planes, 1, together, 1]
    row_cells = by_tile.expand(len(planes), -1, -1, -1)  # [groups of planes, tiles, together, cells]
    return layout.members[planes, row_cells].flatten(), row_cells.flatten()
