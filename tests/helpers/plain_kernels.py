"""The four kernels of the fused search in plain float64."""

import math

import torch


class PlainKernels:
    """The four kernels as they are defined, in float64; products of every type are taken in float32's values."""

    def __init__(self, dtype, cells, tile_rows=16, block_cells=16):
        self.dtype, self.tile_rows, self.block_cells = torch.float32, tile_rows, block_cells

    def coarse_distances(self, level, rows, maps, pages, weight, above, over):
        """See fused.py."""
        found = weight * _without_query_norms(level, rows, maps, pages)
        if above is not None:
            found += above[:, over][..., over]
        return found.float()

    def block_minima(self, shape, rows, maps, pages, weight, coarse):
        """See fused.py."""
        of_planes = _without_query_norms(0, rows, maps, pages).unflatten(3, (shape.planes, shape.cells))
        of_cells = weight * of_planes.amin(3)
        if coarse is not None:
            of_cells += coarse[:, shape.row_cells]
        return self._blocks(of_cells).amin(4).flatten(2).float()

    def rescan(self, shape, minima, query, maps, pages, weight, coarse, count, first_position):
        """See fused.py."""
        maps_of = maps.levels[0][pages, :, : maps.channels[0]].double()
        distances = weight * (query.double()[:, :, None, None] - maps_of[:, None]).square().sum(4)
        distances = distances.unflatten(3, (shape.planes, shape.cells))
        if coarse is not None:
            distances += coarse[:, shape.pixel_cells][:, :, :, None]
        pixels = shape.cell_pixels.view(shape.planes, shape.cells).expand_as(distances)
        distances = distances.masked_fill(pixels < 0, math.inf)
        positions = first_position + torch.arange(pages.shape[1]).view(1, 1, -1, 1, 1)
        keys = self._blocks(
            keys_of(distances.float(), positions * shape.pixels + pixels.clamp(min=0)), keys_of(math.inf)
        )
        keys = keys.transpose(3, 4).flatten(4).flatten(2, 3)  # [B, P, K * blocks, planes * cells of a block]
        first = minima[:, shape.query_row].sort(dim=2, stable=True).indices[:, :, :count]
        return keys.gather(2, first[..., None].expand(-1, -1, -1, keys.shape[3])).flatten(2)

    def differences(self, level, shape, query, maps, pages, weight, matches, distances):
        """See fused.py."""
        position, pixel = matches // shape.pixels, matches % shape.pixels
        slot = pages.gather(1, position.flatten(1)).view_as(position)
        row = (shape.under[level] if level else shape.place)[pixel]
        there = maps.levels[level][slot, row, : maps.channels[level]].double()
        here = query[:, shape.under[level]].double()
        distances += weight * (here[:, :, None] - there).square().sum(3)

    def _blocks(self, of_cells, beyond=math.inf):
        """The last dimension, of cells, cut into blocks."""
        missing = -of_cells.shape[-1] % self.block_cells
        return torch.nn.functional.pad(of_cells, (0, missing), value=beyond).unflatten(-1, (-1, self.block_cells))


def _without_query_norms(level, rows, maps, pages):
    """|g|^2 - 2 q.g of all rows: float64 [B, query rows, K, rows]."""
    products = torch.einsum("bqc,bkgc->bqkg", rows.values.double(), maps.levels[level][pages].double())
    return maps.norms[level][pages].double()[:, None] - rows.factors.double()[:, :, None, None] * products


def keys_of(distances, matches=0):
    """The keys that kernels make of distances and matches; with no tensor, an int."""
    if isinstance(distances, float):
        return int(keys_of(torch.tensor(distances), torch.tensor(matches)))
    bits = distances.view(torch.int32)
    return (bits ^ (bits >> 31 & 0x7FFFFFFF)).long() << 32 | matches
