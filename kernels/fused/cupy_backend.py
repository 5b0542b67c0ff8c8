"""The fused kernels in CUDA C++ (nearest.cu), launched through CuPy: on CUDA GPUs.

They take float16 and bfloat16 maps; the torch backend searches float32 ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from .. import torch_backend
from ..codes import CodedMaps
from . import cuda_launch
from .cuda_launch import Kernel
from .geometry import Geometry
from .interface import Launch
from .maps import FusedMaps, ScaledRows, common_type
from .search import search

TYPES = {torch.float16: "Float16", torch.bfloat16: "Bfloat16", torch.float32: "Float32"}
WARP_ROWS, COLUMNS, PAD, FRAGMENT = 32, 64, 8, 16
"""As in nearest.cu."""

RESCAN_WARPS = 8
DIFFERENCES_WARPS = 2
WINDOW_WARPS = 4


@dataclass(frozen=True)
class Tiles:
    """Sizes of the tiles of a product that one block computes."""

    warps: int  # of WARP_ROWS query rows each
    channels: int  # of a chunk, at most
    stages: int  # chunks under way

    @property
    def rows(self) -> int:
        """Query rows of a tile."""
        return self.warps * WARP_ROWS

    def chunks(self, channels: int) -> tuple[int, int]:
        """Return the channels of a chunk, a multiple of FRAGMENT, and the number of chunks that hold all channels."""
        chunks = math.ceil(channels / self.channels)
        return math.ceil(channels / (chunks * FRAGMENT)) * FRAGMENT, chunks


MINIMA_TILES = Tiles(warps=8, channels=64, stages=3)
COARSE_TILES = Tiles(warps=4, channels=32, stages=4)


class CupyKernels:
    """The kernels of `interface.Kernels` for maps of one type."""

    def __init__(
        self, dtype: torch.dtype, cells: int, minima: Tiles = MINIMA_TILES, coarse: Tiles = COARSE_TILES
    ) -> None:
        """Choose tiles for maps of a type; blocks have the same size whatever the number of `cells`.

        Raises ValueError for float32 maps.
        """
        if dtype == torch.float32:
            raise ValueError("the cupy backend takes float16 and bfloat16 maps, not float32")
        self.dtype, self.minima, self.coarse = dtype, minima, coarse
        self.tile_rows, self.block_cells = minima.rows, COLUMNS

    def decode(self, coded: CodedMaps, slots: Tensor, maps: FusedMaps) -> None:
        """See `interface.Kernels`."""
        maps.write_decoded(coded, slots)

    def coarse_distances(self, launch: Launch, level: int, rows: ScaledRows, coarser: Tensor | None) -> Tensor:
        """See `interface.Kernels`."""
        gallery, tiles = launch.maps.levels[level], self.coarse
        query_rows, n, columns = rows.values.shape[1], *gallery.shape[1:]
        width, _ = tiles.chunks(columns)
        out = torch.empty(launch.batch, query_rows, launch.positions, n, device=gallery.device)
        tiles_of_pair = math.ceil(query_rows / tiles.rows) * math.ceil(n / COLUMNS)
        cuda_launch.launch(
            Kernel(
                "coarse_distances",
                (TYPES[self.dtype], tiles.warps, width, tiles.stages, int(coarser is not None), 1 - n % 2),
                tiles.warps,
                shared_memory=2 * tiles.stages * (tiles.rows + COLUMNS) * (width + PAD),
            ),
            launch.batch * launch.positions * tiles_of_pair,
            query=rows.values,
            factors=rows.factors,
            gallery=gallery,
            norms=launch.maps.norms[level],
            pages=launch.pages,
            coarser=out if coarser is None else coarser,
            over=launch.pages if coarser is None else launch.geometry.parents[level - 1],  # anything where not read
            out=out,
            query_rows=query_rows,
            rows=n,
            coarser_rows=0 if coarser is None else coarser.shape[3],
            positions=launch.positions,
            columns=columns,
            weight=launch.weights[level],
        )
        return out

    def block_minima(self, launch: Launch, rows: ScaledRows, coarse: Tensor | None) -> Tensor:
        """See `interface.Kernels`."""
        geometry, gallery = launch.geometry, launch.maps.levels[0]
        query_rows, blocks = rows.values.shape[1], math.ceil(geometry.cells / COLUMNS)
        minima = torch.empty(launch.batch, query_rows, launch.positions * blocks, device=gallery.device)
        cuda_launch.launch(
            self._minima_kernel(gallery.shape[2], geometry, coarse is not None, gallery.device),
            launch.batch * launch.positions * (query_rows // self.tile_rows),
            query=rows.values,
            factors=rows.factors,
            row_cells=geometry.row_cells,
            gallery=gallery,
            norms=launch.maps.norms[0],
            pages=launch.pages,
            coarse=minima if coarse is None else coarse,
            minima=minima,
            query_rows=query_rows,
            cells=geometry.cells,
            positions=launch.positions,
            columns=gallery.shape[2],
            weight=launch.weights[0],
        )
        return minima

    def _minima_kernel(self, columns: int, geometry: Geometry, coarse: bool, device: torch.device) -> Kernel:
        """Return the first form of `block_minima` that fits into the device's shared memory.

        Query rows stay in it if they can; otherwise, GPUs with less of it need fewer chunks under way.
        """
        tiles = self.minima
        width, chunks = tiles.chunks(columns)
        room = cuda_launch.shared_memory_of(device)
        for resident, stages in ((True, tiles.stages), (False, tiles.stages), (False, 2)):
            query = tiles.rows * (chunks * width + PAD) if resident else stages * tiles.rows * (width + PAD)
            needed = 2 * (query + stages * COLUMNS * (width + PAD)) + 4 * stages * COLUMNS
            if needed <= room:
                break
        cut = (tiles.warps, width, chunks, stages, int(resident))
        parameters = (TYPES[self.dtype], *cut, geometry.planes, int(coarse), 1 - geometry.cells % 2)
        return Kernel("block_minima", parameters, tiles.warps, shared_memory=needed)

    def rescan(self, launch: Launch, query: Tensor, minima: Tensor, coarse: Tensor | None, count: int) -> Tensor:
        """See `interface.Kernels`."""
        geometry, gallery = launch.geometry, launch.maps.levels[0]
        columns = count * geometry.planes * COLUMNS
        keys = torch.empty(launch.batch, geometry.pixels, columns, dtype=torch.int64, device=gallery.device)
        cuda_launch.launch(
            Kernel(
                "rescan",
                (TYPES[query.dtype], TYPES[self.dtype], RESCAN_WARPS, geometry.planes, int(coarse is not None)),
                RESCAN_WARPS,
                shared_memory=4 * gallery.shape[2],
            ),
            launch.batch * geometry.pixels,
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
            channels=launch.maps.channels[0],
            columns=gallery.shape[2],
            count=count,
            weight=launch.weights[0],
        )
        return keys

    def differences(self, launch: Launch, level: int, query: Tensor, matches: Tensor, distances: Tensor) -> None:
        """See `interface.Kernels`."""
        geometry, gallery = launch.geometry, launch.maps.levels[level]
        covering = geometry.level_pixels[level]
        cuda_launch.launch(
            Kernel(
                "differences",
                (TYPES[query.dtype], TYPES[self.dtype], DIFFERENCES_WARPS),
                DIFFERENCES_WARPS,
                shared_memory=4 * gallery.shape[2],
            ),
            launch.batch * geometry.pixels,
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
            columns=gallery.shape[2],
            count=matches.shape[2],
            weight=launch.weights[level],
        )

    def window_distances(self, launch: Launch, level: int, query: Tensor, shift: int, reach: int) -> Tensor:
        """See `interface.Kernels`."""
        geometry, gallery, pixels = launch.geometry, launch.maps.levels[level], query.shape[1]
        out = torch.empty(launch.batch, launch.positions, 2 * reach + 1, pixels, device=gallery.device)
        cuda_launch.launch(
            Kernel(
                "window_distances",
                (TYPES[query.dtype], TYPES[self.dtype], WINDOW_WARPS, int(level == 0)),
                WINDOW_WARPS,
                shared_memory=4 * gallery.shape[2],
            ),
            launch.batch * pixels,
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
            columns=gallery.shape[2],
            shift=shift,
            reach=reach,
        )
        return out


def nearest_pixels(
    query: Sequence[Tensor], pool: Sequence[Tensor] | FusedMaps, pages: Tensor, k: int = 1, **options: Any
) -> tuple[Tensor, Tensor]:
    """Search by these kernels (see `search.search`); float32 maps go to the torch backend.

    Raises:
        ImportError: CuPy is not installed.
        RuntimeError: the maps are not on a GPU.
    """
    if not isinstance(pool, FusedMaps) and common_type(pool) == torch.float32:
        return torch_backend.nearest_pixels(query, pool, pages, k, **options)
    if find_spec("cupy") is None:
        raise ImportError("the cupy backend needs CuPy: pip install cupy-cuda13x, or choose another backend")
    device = (pool.levels if isinstance(pool, FusedMaps) else pool)[0].device
    if device.type != "cuda":
        raise RuntimeError(f"the cupy backend needs maps on a CUDA GPU, not on {device}: choose the torch backend")
    return search(CupyKernels, query, pool, pages, k, **options)
