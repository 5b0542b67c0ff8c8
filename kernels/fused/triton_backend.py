"""The fused kernels in Triton: on CUDA GPUs, or anywhere in Triton's interpreter (TRITON_INTERPRET=1)."""

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ..codes import CodedMaps
from . import triton_codes, triton_kernels
from .interface import Launch
from .maps import FusedMaps, ScaledRows
from .search import search

INTERPRETED = not isinstance(triton_kernels.block_minima, triton.runtime.JITFunction)


@dataclass(frozen=True)
class Tiles:
    """Sizes of the tiles of a product that one program computes."""

    rows: int  # of the query
    columns: int  # rows of the gallery
    channels: int
    warps: int
    stages: int  # loads under way


MINIMA_TILES = Tiles(rows=128, columns=64, channels=256, warps=8, stages=2)  # 160 KB of shared memory
COARSE_TILES = Tiles(rows=128, columns=64, channels=64, warps=8, stages=4)
DEEP_CHANNELS = 64  # of a tile of `block_minima` where one tile does not hold all channels
RESCAN_CHANNELS = 32
WINDOW_PIXELS, WINDOW_CHANNELS = 32, 64


class TritonKernels:
    """The kernels of `interface.Kernels` for maps of one type."""

    def __init__(
        self, dtype: torch.dtype, cells: int, minima: Tiles = MINIMA_TILES, coarse: Tiles = COARSE_TILES
    ) -> None:
        """Choose tiles for maps of a type and of a number of cells: fewer cells than a tile's make a smaller block."""
        # float32 is three products of tf32 on tensor cores, as good as float32, from twice the bytes.
        self.precision = "tf32x3" if dtype == torch.float32 else "tf32"
        if INTERPRETED and dtype == torch.bfloat16:
            dtype = torch.float32  # the interpreter gets products in bfloat16 wrong
        if dtype == torch.float32:
            minima = replace(minima, rows=minima.rows // 2)
        self.dtype, self.minima, self.coarse = dtype, minima, coarse
        self.tile_rows = minima.rows
        self.block_cells = min(minima.columns, max(16, triton.next_power_of_2(cells)))

    def _chunks(self, most: int, channels: int) -> tuple[int, int]:
        """Return the channels of a tile, and the number of tiles that hold all channels."""
        width = min(most * 2 // self.dtype.itemsize, max(16, triton.next_power_of_2(channels)))
        return width, math.ceil(channels / width)

    def decode(self, coded: CodedMaps, slots: Tensor, maps: FusedMaps) -> None:
        """See `interface.Kernels`."""
        triton_codes.decode(coded, slots, maps)

    def coarse_distances(self, launch: Launch, level: int, rows: ScaledRows, coarser: Tensor | None) -> Tensor:
        """See `interface.Kernels`."""
        gallery, tiles = launch.maps.levels[level], self.coarse
        query_rows, n = rows.values.shape[1], gallery.shape[1]
        width, chunks = self._chunks(tiles.channels, launch.maps.channels[level])
        out = torch.empty(launch.batch, query_rows, launch.positions, n, device=gallery.device)
        parents = launch.pages if coarser is None else launch.geometry.parents[level - 1]  # anything where not read
        pairs = launch.batch * launch.positions
        triton_kernels.coarse_distances[(triton.cdiv(query_rows, tiles.rows), triton.cdiv(n, tiles.columns), pairs)](
            query=_descriptor(rows.values, tiles.rows, width),
            factors=rows.factors,
            gallery=_descriptor(gallery, tiles.columns, width),
            norms=launch.maps.norms[level],
            pages=launch.pages,
            coarser=out if coarser is None else coarser,
            over_query=parents,
            over_gallery=parents,
            out=out,
            query_rows=query_rows,
            rows=n,
            coarser_query_rows=0 if coarser is None else coarser.shape[1],
            coarser_rows=0 if coarser is None else coarser.shape[3],
            positions=launch.positions,
            weight=launch.weights[level],
            ADD=coarser is not None,
            BM=tiles.rows,
            BN=tiles.columns,
            BD=width,
            CHUNKS=chunks,
            STAGES=tiles.stages,
            PRECISION=self.precision,
            num_warps=tiles.warps,
        )
        return out

    def block_minima(self, launch: Launch, rows: ScaledRows, coarse: Tensor | None) -> Tensor:
        """See `interface.Kernels`."""
        tiles, geometry, maps = self.minima, launch.geometry, launch.maps
        query_rows, blocks = rows.values.shape[1], triton.cdiv(geometry.cells, self.block_cells)
        width, chunks = self._chunks(tiles.channels, maps.channels[0])
        if chunks > 1:
            width, chunks = self._chunks(DEEP_CHANNELS, maps.channels[0])
        minima = torch.empty(launch.batch, query_rows, launch.positions * blocks, device=launch.pages.device)
        triton_kernels.block_minima[(query_rows // tiles.rows, launch.positions, launch.batch)](
            query=_descriptor(rows.values, tiles.rows, width),
            factors=rows.factors,
            row_cells=geometry.row_cells,
            gallery=_descriptor(maps.levels[0], self.block_cells, width),
            norms=maps.norms[0],
            pages=launch.pages,
            coarse=minima if coarse is None else coarse,
            minima=minima,
            query_rows=query_rows,
            cells=geometry.cells,
            positions=launch.positions,
            blocks=blocks,
            weight=launch.weights[0],
            PLANES=geometry.planes,
            COARSE=coarse is not None,
            BM=tiles.rows,
            BN=self.block_cells,
            BD=width,
            CHUNKS=chunks,
            STAGES=tiles.stages,
            PRECISION=self.precision,
            num_warps=tiles.warps,
        )
        return minima

    def rescan(self, launch: Launch, query: Tensor, minima: Tensor, coarse: Tensor | None, count: int) -> Tensor:
        """See `interface.Kernels`."""
        geometry, gallery = launch.geometry, launch.maps.levels[0]
        columns = count * geometry.planes * self.block_cells
        keys = torch.empty(launch.batch, geometry.pixels, columns, dtype=torch.int64, device=gallery.device)
        triton_kernels.rescan[(geometry.pixels, launch.batch)](
            minima=minima,
            query=query,
            query_row=geometry.query_row,
            pixel_cells=geometry.pixel_cells,
            gallery=gallery,
            cell_pixels=geometry.cell_pixels,
            pages=launch.pages,
            coarse=minima if coarse is None else coarse,
            out=keys,
            query_rows=minima.shape[1],
            pixels=geometry.pixels,
            cells=geometry.cells,
            positions=launch.positions,
            first_position=launch.first_position,
            blocks=minima.shape[2] // launch.positions,
            channels=launch.maps.channels[0],
            gallery_columns=gallery.shape[2],
            weight=launch.weights[0],
            COUNT=count,
            MINIMA=triton.next_power_of_2(minima.shape[2]),
            PLANES=geometry.planes,
            TOGETHER=min(4, triton.next_power_of_2(geometry.planes)),
            COARSE=coarse is not None,
            BN=self.block_cells,
            BD=RESCAN_CHANNELS,
            num_warps=8,
        )
        return keys

    def differences(self, launch: Launch, level: int, query: Tensor, matches: Tensor, distances: Tensor) -> None:
        """See `interface.Kernels`."""
        geometry, gallery = launch.geometry, launch.maps.levels[level]
        covering, count = geometry.level_pixels[level], matches.shape[2]
        triton_kernels.differences[(geometry.pixels, launch.batch)](
            query=query,
            query_under=covering,
            gallery=gallery,
            gallery_under=covering if level else geometry.gallery_row,
            pages=launch.pages,
            matches=matches,
            distances=distances,
            query_rows=query.shape[1],
            rows=gallery.shape[1],
            pixels=geometry.pixels,
            positions=launch.positions,
            channels=launch.maps.channels[level],
            gallery_columns=gallery.shape[2],
            weight=launch.weights[level],
            COUNT=count,
            SLOTS=triton.next_power_of_2(count),
            BD=RESCAN_CHANNELS,
            num_warps=1,
        )

    def window_distances(self, launch: Launch, level: int, query: Tensor, shift: int, reach: int) -> Tensor:
        """See `interface.Kernels`."""
        geometry, gallery, pixels = launch.geometry, launch.maps.levels[level], query.shape[1]
        out = torch.empty(launch.batch, launch.positions, 2 * reach + 1, pixels, device=gallery.device)
        pairs = launch.batch * launch.positions
        triton_kernels.window_distances[(triton.cdiv(pixels, WINDOW_PIXELS), pairs)](
            query=query,
            gallery=gallery,
            gallery_row=geometry.gallery_row,
            pages=launch.pages,
            out=out,
            pixels=pixels,
            width=geometry.sizes[level][1],
            rows=gallery.shape[1],
            positions=launch.positions,
            channels=launch.maps.channels[level],
            gallery_columns=gallery.shape[2],
            shift=shift,
            reach=reach,
            REORDERED=level == 0,
            BP=WINDOW_PIXELS,
            BD=WINDOW_CHANNELS,
            num_warps=4,
        )
        return out


nearest_pixels = partial(search, TritonKernels)
"""Search by these kernels: see `search.search`."""


def _descriptor(rows: Tensor, height: int, width: int) -> TensorDescriptor:
    """Describe rows [.., n, columns] in blocks [height, width]; what lies beyond the rows reads as zeros."""
    flat = rows.flatten(0, 1)
    return TensorDescriptor.from_tensor(flat, [height, width])
