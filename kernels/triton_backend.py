"""The fused search (fused.py) in Triton: on CUDA GPUs, or anywhere in Triton's interpreter (TRITON_INTERPRET=1)."""

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from . import triton_kernels
from .fused import FusedMaps, Geometry, Rows, search

INTERPRETED = not isinstance(triton_kernels.block_minima, triton.runtime.JITFunction)


@dataclass(frozen=True)
class Tiles:
    """How a product is cut: query rows, gallery rows and channels of a tile; warps and loads ahead of a program."""

    rows: int
    columns: int
    channels: int
    warps: int
    stages: int


MINIMA_TILES = Tiles(128, 64, 256, 8, 2)  # 160 KB of shared memory
COARSE_TILES = Tiles(128, 64, 64, 8, 4)
DEEP_CHANNELS = 64  # of a tile of `block_minima` where all channels do not fit into one
RESCAN_CHANNELS = 32


class TritonKernels:
    """The kernels of fused.py for maps of one type."""

    def __init__(
        self, dtype: torch.dtype, cells: int, minima: Tiles = MINIMA_TILES, coarse: Tiles = COARSE_TILES
    ) -> None:
        """`cells` are those of a map: a smaller block than the tiles' holds few."""
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
        """Channels of a tile, and how many tiles they make."""
        width = min(most * 2 // self.dtype.itemsize, max(16, triton.next_power_of_2(channels)))
        return width, math.ceil(channels / width)

    def coarse_distances(
        self, level: int, rows: Rows, maps: FusedMaps, pages: Tensor, weight: float, above: Tensor | None, over: Tensor
    ) -> Tensor:
        """See fused.py."""
        gallery, tiles = maps.levels[level], self.coarse
        batch, positions = pages.shape
        query_rows, n = rows.values.shape[1], gallery.shape[1]
        width, chunks = self._chunks(tiles.channels, maps.channels[level])
        out = torch.empty(batch, query_rows, positions, n, device=pages.device)
        grid = (triton.cdiv(query_rows, tiles.rows), triton.cdiv(n, tiles.columns), batch * positions)
        triton_kernels.coarse_distances[grid](
            _descriptor(rows.values, tiles.rows, width),
            rows.factors,
            _descriptor(gallery, tiles.columns, width),
            maps.norms[level],
            pages,
            out if above is None else above,
            over,
            over,
            out,
            query_rows,
            n,
            0 if above is None else above.shape[1],
            0 if above is None else above.shape[3],
            positions,
            weight,
            ADD=above is not None,
            BM=tiles.rows,
            BN=tiles.columns,
            BD=width,
            CHUNKS=chunks,
            STAGES=tiles.stages,
            PRECISION=self.precision,
            num_warps=tiles.warps,
        )
        return out

    def block_minima(
        self, shape: Geometry, rows: Rows, maps: FusedMaps, pages: Tensor, weight: float, coarse: Tensor | None
    ) -> Tensor:
        """See fused.py."""
        tiles = self.minima
        batch, positions = pages.shape
        query_rows, blocks = rows.values.shape[1], triton.cdiv(shape.cells, self.block_cells)
        width, chunks = self._chunks(tiles.channels, maps.channels[0])
        if chunks > 1:
            width, chunks = self._chunks(DEEP_CHANNELS, maps.channels[0])
        minima = torch.empty(batch, query_rows, positions * blocks, device=pages.device)
        triton_kernels.block_minima[(query_rows // tiles.rows, positions, batch)](
            _descriptor(rows.values, tiles.rows, width),
            rows.factors,
            shape.row_cells,
            _descriptor(maps.levels[0], self.block_cells, width),
            maps.norms[0],
            pages,
            minima if coarse is None else coarse,
            minima,
            query_rows,
            shape.cells,
            positions,
            blocks,
            weight,
            PLANES=shape.planes,
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

    def rescan(
        self, shape: Geometry, minima: Tensor, query: Tensor, maps: FusedMaps, pages: Tensor, weight: float,
        coarse: Tensor | None, count: int, first_position: int,
    ) -> Tensor:  # fmt: skip
        """See fused.py."""
        batch, positions = pages.shape
        columns = count * shape.planes * self.block_cells
        keys = torch.empty(batch, shape.pixels, columns, dtype=torch.int64, device=pages.device)
        triton_kernels.rescan[(shape.pixels, batch)](
            minima,
            query,
            shape.query_row,
            shape.pixel_cells,
            maps.levels[0],
            shape.cell_pixels,
            pages,
            minima if coarse is None else coarse,
            keys,
            minima.shape[1],
            shape.pixels,
            shape.cells,
            positions,
            first_position,
            minima.shape[2] // positions,
            maps.channels[0],
            maps.levels[0].shape[2],
            weight,
            COUNT=count,
            MINIMA=triton.next_power_of_2(minima.shape[2]),
            PLANES=shape.planes,
            TOGETHER=min(4, triton.next_power_of_2(shape.planes)),
            COARSE=coarse is not None,
            BN=self.block_cells,
            BD=RESCAN_CHANNELS,
            num_warps=8,
        )
        return keys

    def differences(
        self, level: int, shape: Geometry, query: Tensor, maps: FusedMaps, pages: Tensor, weight: float,
        matches: Tensor, distances: Tensor,
    ) -> None:  # fmt: skip
        """See fused.py."""
        gallery, count = maps.levels[level], matches.shape[2]
        triton_kernels.differences[(shape.pixels, len(pages))](
            query,
            shape.under[level],
            gallery,
            shape.under[level] if level else shape.place,
            pages,
            matches,
            distances,
            query.shape[1],
            gallery.shape[1],
            shape.pixels,
            pages.shape[1],
            maps.channels[level],
            gallery.shape[2],
            weight,
            COUNT=count,
            SLOTS=triton.next_power_of_2(count),
            BD=RESCAN_CHANNELS,
            num_warps=1,
        )


nearest_pixels = partial(search, TritonKernels)
"""See fused.py."""


def _descriptor(rows: Tensor, height: int, width: int) -> TensorDescriptor:
    """Rows [.., n, columns] in blocks: what lies beyond them reads as zeros."""
    flat = rows.flatten(0, 1)
    return TensorDescriptor.from_tensor(flat, [height, width])
