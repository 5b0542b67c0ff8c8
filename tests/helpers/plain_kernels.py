"""The kernels of a fused search in plain float64."""

import math

import torch


class PlainKernels:
    """The kernels by their definition, in float64; products of every type use the values in float32."""

    def __init__(self, dtype, cells, tile_rows=16, block_cells=16):
        self.dtype, self.tile_rows, self.block_cells = torch.float32, tile_rows, block_cells

    def decode(self, coded, slots, maps):
        """See `interface.Kernels`."""
        maps.write_decoded(coded, slots)

    def coarse_distances(self, launch, level, rows, coarser):
        """See `interface.Kernels`."""
        found = launch.weights[level] * _less_query_norms(launch, level, rows)
        if coarser is not None:
            parents = launch.geometry.parents[level - 1]
            found += coarser[:, parents][..., parents]
        return found.float()

    def block_minima(self, launch, rows, coarse):
        """See `interface.Kernels`."""
        geometry = launch.geometry
        of_planes = _less_query_norms(launch, 0, rows).unflatten(3, (geometry.planes, geometry.cells))
        of_cells = launch.weights[0] * of_planes.amin(3)
        if coarse is not None:
            of_cells += coarse[:, geometry.row_cells]
        return self._blocks(of_cells).amin(4).flatten(2).float()

    def rescan(self, launch, query, minima, coarse, count):
        """See `interface.Kernels`."""
        geometry, maps = launch.geometry, launch.maps
        gallery = maps.levels[0][launch.pages, :, : maps.channels[0]].double()
        distances = launch.weights[0] * (query.double()[:, :, None, None] - gallery[:, None]).square().sum(4)
        distances = distances.unflatten(3, (geometry.planes, geometry.cells))  # [B, P, K, planes, cells]
        if coarse is not None:
            distances += coarse[:, geometry.pixel_cells][:, :, :, None]
        pixels = geometry.cell_pixels.view(geometry.planes, geometry.cells).expand_as(distances)
        distances = distances.masked_fill(pixels < 0, math.inf)
        positions = launch.first_position + torch.arange(launch.positions).view(1, 1, -1, 1, 1)
        matches = positions * geometry.pixels + pixels.clamp(min=0)
        keys = self._blocks(keys_of(distances.float(), matches), keys_of(math.inf))
        keys = keys.transpose(3, 4).flatten(4).flatten(2, 3)  # [B, P, K * blocks, planes * cells of a block]
        first = minima[:, geometry.query_row].sort(dim=2, stable=True).indices[:, :, :count]
        return keys.gather(2, first[..., None].expand(-1, -1, -1, keys.shape[3])).flatten(2)

    def differences(self, launch, level, query, matches, distances):
        """See `interface.Kernels`."""
        geometry, maps = launch.geometry, launch.maps
        position, pixel = matches // geometry.pixels, matches % geometry.pixels
        slot = launch.pages.gather(1, position.flatten(1)).view_as(position)
        row = (geometry.level_pixels[level] if level else geometry.gallery_row)[pixel]
        there = maps.levels[level][slot, row, : maps.channels[level]].double()
        here = query[:, geometry.level_pixels[level]].double()
        distances += launch.weights[level] * (here[:, :, None] - there).square().sum(3)

    def window_distances(self, launch, level, query, shift, reach):
        """See `interface.Kernels`."""
        geometry, maps = launch.geometry, launch.maps
        (h, w), channels = geometry.sizes[level], maps.channels[level]
        rows = geometry.gallery_row if level == 0 else torch.arange(h * w)
        gallery = maps.levels[level][launch.pages][:, :, rows, :channels].double()
        pixel = torch.arange(h * w)
        found = torch.full((launch.batch, launch.positions, 2 * reach + 1, h * w), math.inf, dtype=torch.float64)
        for number, aside in enumerate(range(-reach, reach + 1)):
            y, x = pixel // w + shift, pixel % w + aside
            here = pixel[(y >= 0) & (y < h) & (x >= 0) & (x < w)]
            there = here + shift * w + aside
            found[:, :, number, here] = (query[:, None, here].double() - gallery[:, :, there]).square().sum(3)
        return found.float()

    def _blocks(self, of_cells, beyond=math.inf):
        """Cut the last dimension, of cells, into blocks."""
        missing = -of_cells.shape[-1] % self.block_cells
        return torch.nn.functional.pad(of_cells, (0, missing), value=beyond).unflatten(-1, (-1, self.block_cells))


def _less_query_norms(launch, level, rows):
    """Return |g|^2 - 2 q.g of all rows: float64 [B, query rows, K, rows]."""
    gallery = launch.maps.levels[level][launch.pages].double()
    products = torch.einsum("bqc,bkgc->bqkg", rows.values.double(), gallery)
    return launch.maps.norms[level][launch.pages].double()[:, None] - rows.factors.double()[:, :, None, None] * products


def keys_of(distances, matches=0):
    """Return the keys of distances and matches; of numbers, an int."""
    if isinstance(distances, float):
        return int(keys_of(torch.tensor(distances), torch.tensor(matches)))
    bits = distances.view(torch.int32)
    return (bits ^ (bits >> 31 & 0x7FFFFFFF)).long() << 32 | matches
