"""The fused search (fused.py) in CUDA C++ (nearest.cu), compiled and launched by CuPy: on CUDA GPUs.

float16 and bfloat16 maps only; float32 ones go to the torch backend.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import torch_backend
from .fused import FusedMaps, Geometry, Rows, common_type, search

SOURCE = Path(__file__).with_name("nearest.cu")
TYPES = {torch.float16: "Float16", torch.bfloat16: "Bfloat16", torch.float32: "Float32"}
LANES, WARP_ROWS, COLUMNS, PAD, FRAGMENT = 32, 32, 64, 8, 16
"""As in nearest.cu."""

SHARED_MEMORY = 166_912  # bytes that a block may have at compute capability 8.0; 9.0 has more
RESCAN_WARPS = 8
DIFFERENCES_WARPS = 2


@dataclass(frozen=True)
class Tiles:
    """How a product is cut: warps, of 32 query rows each; channels of a chunk, at most; chunks that are under way."""

    warps: int
    channels: int
    stages: int

    @property
    def rows(self) -> int:
        """Query rows."""
        return self.warps * WARP_ROWS

    def chunks(self, channels: int) -> tuple[int, int]:
        """Channels of a chunk, a multiple of a fragment's, and how many chunks hold them all."""
        chunks = math.ceil(channels / self.channels)
        return math.ceil(channels / (chunks * FRAGMENT)) * FRAGMENT, chunks


MINIMA_TILES = Tiles(8, 64, 3)
COARSE_TILES = Tiles(4, 32, 4)


@dataclass(frozen=True)
class Kernel:
    """A kernel of nearest.cu as it is launched."""

    name: str
    parameters: tuple[str | int, ...]  # of its template
    warps: int
    shared_memory: int  # bytes, beyond what its source declares

    @property
    def expression(self) -> str:
        """What names it in C++."""
        return f"{self.name}<{', '.join(str(parameter) for parameter in self.parameters)}>"


def source_options() -> tuple[str, ...]:
    """What NVRTC needs to be told, but for the architecture."""
    return ("-std=c++17",)


@lru_cache(maxsize=256)
def _compiled(expression: str, device: torch.device) -> Any:
    """A kernel for a device, the current one, that may have all of its shared memory."""
    import cupy

    module = cupy.RawModule(
        code=SOURCE.read_text(encoding="utf-8"), options=source_options(), name_expressions=(expression,)
    )
    kernel = module.get_function(expression)
    kernel.max_dynamic_shared_size_bytes = _shared_memory(device) - kernel.shared_size_bytes
    return kernel


def launch(kernel: Kernel, blocks: int, arguments: Sequence[Tensor | int | float]) -> None:
    """Run a kernel on its tensors' device, on torch's current stream."""
    import cupy

    if blocks == 0:
        return
    device = next(argument for argument in arguments if isinstance(argument, Tensor)).device
    stream = _stream(torch.cuda.current_stream(device).cuda_stream, device)
    with cupy.cuda.Device(device.index), stream:
        function = _compiled(kernel.expression, device)
        values = tuple(_argument(argument) for argument in arguments)
        function((blocks,), (kernel.warps * LANES,), values, shared_mem=kernel.shared_memory)


@lru_cache(maxsize=64)
def _stream(address: int, device: torch.device) -> Any:
    """A stream of torch's. CuPy 14 deprecates ExternalStream, but what is to replace it may destroy torch's stream."""
    import cupy

    return cupy.cuda.ExternalStream(address, device.index)


def _argument(value: Tensor | int | float) -> int | np.int32 | np.float32:
    """As CuPy passes it: a tensor as its address, 8 bytes."""
    if isinstance(value, Tensor):
        return value.data_ptr()
    return np.int32(value) if isinstance(value, int) else np.float32(value)


class CupyKernels:
    """The kernels of fused.py for maps of one type."""

    def __init__(
        self, dtype: torch.dtype, cells: int, minima: Tiles = MINIMA_TILES, coarse: Tiles = COARSE_TILES
    ) -> None:
        """`cells` are those of a map: blocks of them are as large whatever their number.

        Raises ValueError for float32 maps.
        """
        if dtype == torch.float32:
            raise ValueError("the cupy backend takes float16 and bfloat16 maps, not float32")
        self.dtype, self.minima, self.coarse = dtype, minima, coarse
        self.tile_rows, self.block_cells = minima.rows, COLUMNS

    def coarse_distances(
        self, level: int, rows: Rows, maps: FusedMaps, pages: Tensor, weight: float, above: Tensor | None, over: Tensor
    ) -> Tensor:
        """See fused.py."""
        gallery, tiles = maps.levels[level], self.coarse
        batch, positions = pages.shape
        query_rows, n, columns = rows.values.shape[1], *gallery.shape[1:]
        width, _ = tiles.chunks(columns)
        out = torch.empty(batch, query_rows, positions, n, device=pages.device)
        kernel = Kernel(
            "coarse_distances",
            (TYPES[self.dtype], tiles.warps, width, tiles.stages, int(above is not None), 1 - n % 2),
            tiles.warps,
            2 * tiles.stages * (tiles.rows + COLUMNS) * (width + PAD),
        )
        launch(
            kernel,
            batch * positions * math.ceil(query_rows / tiles.rows) * math.ceil(n / COLUMNS),
            (
                rows.values,
                rows.factors,
                gallery,
                maps.norms[level],
                pages,
                out if above is None else above,
                over,
                out,
                query_rows,
                n,
                0 if above is None else above.shape[3],
                positions,
                columns,
                weight,
            ),
        )
        return out

    def block_minima(
        self, shape: Geometry, rows: Rows, maps: FusedMaps, pages: Tensor, weight: float, coarse: Tensor | None
    ) -> Tensor:
        """See fused.py."""
        batch, positions = pages.shape
        query_rows, blocks = rows.values.shape[1], math.ceil(shape.cells / COLUMNS)
        minima = torch.empty(batch, query_rows, positions * blocks, device=pages.device)
        launch(
            self._minima_kernel(maps.levels[0].shape[2], shape, coarse is not None, pages.device),
            batch * positions * (query_rows // self.tile_rows),
            (
                rows.values,
                rows.factors,
                shape.row_cells,
                maps.levels[0],
                maps.norms[0],
                pages,
                minima if coarse is None else coarse,
                minima,
                query_rows,
                shape.cells,
                positions,
                maps.levels[0].shape[2],
                weight,
            ),
        )
        return minima

    def _minima_kernel(self, columns: int, shape: Geometry, coarse: bool, device: torch.device) -> Kernel:
        """The first form of `block_minima` that fits into the device's shared memory.

        Query rows stay in it if they can. Without that, GPUs that have less need fewer chunks under way.
        """
        tiles = self.minima
        width, chunks = tiles.chunks(columns)
        room = _shared_memory(device)
        for resident, stages in ((True, tiles.stages), (False, tiles.stages), (False, 2)):
            query = tiles.rows * (chunks * width + PAD) if resident else stages * tiles.rows * (width + PAD)
            needed = 2 * (query + stages * COLUMNS * (width + PAD)) + 4 * stages * COLUMNS
            if needed <= room:
                break
        cut = (tiles.warps, width, chunks, stages, int(resident))
        parameters = (TYPES[self.dtype], *cut, shape.planes, int(coarse), 1 - shape.cells % 2)
        return Kernel("block_minima", parameters, tiles.warps, needed)

    def rescan(
        self, shape: Geometry, minima: Tensor, query: Tensor, maps: FusedMaps, pages: Tensor, weight: float,
        coarse: Tensor | None, count: int, first_position: int,
    ) -> Tensor:  # fmt: skip
        """See fused.py."""
        batch, positions = pages.shape
        gallery = maps.levels[0]
        keys = torch.empty(batch, shape.pixels, count * shape.planes * COLUMNS, dtype=torch.int64, device=pages.device)
        kernel = Kernel(
            "rescan",
            (TYPES[query.dtype], TYPES[self.dtype], RESCAN_WARPS, shape.planes, int(coarse is not None)),
            RESCAN_WARPS,
            4 * gallery.shape[2],
        )
        launch(
            kernel,
            batch * shape.pixels,
            (
                minima,
                query,
                shape.query_row,
                shape.pixel_cells,
                gallery,
                shape.cell_pixels,
                pages,
                minima if coarse is None else coarse,
                keys,
                minima.shape[1],
                shape.pixels,
                shape.cells,
                positions,
                first_position,
                maps.channels[0],
                gallery.shape[2],
                count,
                weight,
            ),
        )
        return keys

    def differences(
        self, level: int, shape: Geometry, query: Tensor, maps: FusedMaps, pages: Tensor, weight: float,
        matches: Tensor, distances: Tensor,
    ) -> None:  # fmt: skip
        """See fused.py."""
        gallery = maps.levels[level]
        kernel = Kernel(
            "differences",
            (TYPES[query.dtype], TYPES[self.dtype], DIFFERENCES_WARPS),
            DIFFERENCES_WARPS,
            4 * gallery.shape[2],
        )
        launch(
            kernel,
            len(pages) * shape.pixels,
            (
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
                matches.shape[2],
                weight,
            ),
        )


def nearest_pixels(
    query: Sequence[Tensor], pool: Sequence[Tensor] | FusedMaps, pages: Tensor, k: int = 1, **options: Any
) -> tuple[Tensor, Tensor]:
    """See fused.py; float32 maps go to the torch backend.

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


@lru_cache(maxsize=16)
def _shared_memory(device: torch.device) -> int:
    """Bytes that a block may have on a device."""
    if device.type != "cuda":
        return SHARED_MEMORY
    found: int = torch.cuda.get_device_properties(device).shared_memory_per_block_optin
    return found
