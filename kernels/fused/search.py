"""The pixel search by a fused backend's four kernels.

1. `coarse_distances`: distances of the coarse levels, cells by cells, as products at each level's own resolution.
2. `block_minima`: products of the finest level, with the coarse term added; only the minimum of each block of cells
   is stored.
3. `rescan`: the k nearest pixels lie in the blocks of the k least minima. Those blocks, and EXTRA more to allow for
   rounding, are compared pixel by pixel.
4. `differences`: the remaining candidates are measured as float32 differences over all levels.

In a window, there are so few pairs that all are measured as differences: `window_distances`.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from .. import torch_backend
from ..codes import CodedMaps
from ..per_level import search_levels
from ..pyramid import Size
from ..window import Nearest, Window, make_window
from .geometry import Geometry, make_geometry, raster_layout
from .interface import Kernels, Launch, MakeKernels, split_keys
from .maps import FusedMaps, ScaledRows, common_type, scale_rows

WORKING_MEMORY = 1 << 30
EXTRA = 2  # blocks beyond k that are rescanned
SPARE = 7  # pixels beyond k that are measured
MATCHES = 1 << 31  # the kernels count matches in int32
GRID = 65_535  # most pairs of a query and a map in one launch: a limit of CUDA's grids


def search(
    make_kernels: MakeKernels,
    query: Sequence[Tensor],
    pool: Sequence[Tensor] | FusedMaps | CodedMaps,
    pages: Tensor,
    k: int = 1,
    *,
    sizes: Sequence[Size],
    weights: Sequence[float],
    mode: str,
    precision: str = "float32",
    prune: bool | None = None,
    working_memory: int | None = None,
    window: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Search as `spade_index.kernels.nearest_pixels` does, with checked arguments.

    Maps in codes are decoded by the kernels, those that pages name, before the search.
    Products are computed in the maps' type, to which the query is rounded, and accumulated in float32; the candidates
    they give are measured as float32 differences. Where more than EXTRA blocks are as near as that rounding, a pixel
    that is farther by the rounding may be returned; this was seen only with a few channels far from zero. Maps of a
    pool that is not FusedMaps are copied, in addition to `working_memory`. `precision` and `prune` have no effect.
    The torch backend computes `concat-bilinear`, which is not fused.

    Raises:
        ValueError: the pool is FusedMaps and the mode is not `concat-nearest`, or a query's neighbours have 2^31 pixels
            or more.
    """
    cells = raster_layout(tuple(sizes)).cells
    if isinstance(pool, CodedMaps) and mode != "concat-nearest":
        pool, pages = pool.gathered(pages)
    if isinstance(pool, CodedMaps):
        kernels = make_kernels(torch.float16, cells)
        maps, pages = _decoded(kernels, pool, pages, sizes)
    elif isinstance(pool, FusedMaps):
        if mode != "concat-nearest":
            raise ValueError(f"maps in the kernels' own layout are for concat-nearest, not {mode}")
        maps = pool
        kernels = make_kernels(maps.levels[0].dtype, cells)
    elif mode == "per-level":
        alone = partial(search, make_kernels)
        options = {"working_memory": working_memory, "window": window}
        return search_levels(alone, query, pool, pages, k, sizes=sizes, weights=weights, **options)
    elif mode == "concat-bilinear":
        return torch_backend.nearest_pixels(
            query, pool, pages, k, sizes=sizes, weights=weights, mode=mode, precision=precision, prune=prune,
            working_memory=working_memory, window=window,
        )  # fmt: skip
    else:
        kernels = make_kernels(common_type(pool), cells)
        maps, pages = FusedMaps.of(pool, pages, sizes, kernels.dtype)
    return search_maps(
        kernels, query, maps, pages, k, sizes=sizes, weights=weights, window=window,
        working_memory=working_memory or WORKING_MEMORY,
    )  # fmt: skip


def _decoded(kernels: Kernels, coded: CodedMaps, pages: Tensor, sizes: Sequence[Size]) -> tuple[FusedMaps, Tensor]:
    """Return the maps that pages name, in the kernels' layout, and the pages of their slots."""
    device = coded.stored[0].device
    slots, pages = pages.to(device).unique(return_inverse=True)
    maps = FusedMaps.empty(len(slots), sizes, coded.coding.preparation.channels, torch.float16, device)
    with _current(device):
        kernels.decode(coded, slots, maps)
    return maps, pages


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Make a GPU the current one, on which kernels run."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def check_matches(neighbours: int, pixels: int) -> None:
    """Raise ValueError if matches among the pixels of a query's neighbours do not fit into int32."""
    if neighbours * pixels >= MATCHES:
        raise ValueError(
            f"{neighbours} neighbours of {pixels} pixels are {neighbours * pixels} matches: the fused kernels count to "
            f"{MATCHES - 1}; search fewer neighbours, or with the backend torch"
        )


@torch.no_grad()
def search_maps(
    kernels: Kernels,
    query: Sequence[Tensor],
    maps: FusedMaps,
    pages: Tensor,
    k: int,
    *,
    sizes: Sequence[Size],
    weights: Sequence[float],
    window: int | None = None,
    working_memory: int = WORKING_MEMORY,
) -> tuple[Tensor, Tensor]:
    """Return squared distances float32 [B, P, k] and matches int64 [B, P, k] of `concat-nearest`.

    The batch is cut into groups of queries, and the pages of a query that does not fit into parts, so that buffers
    take about `working_memory` bytes.
    """
    check_matches(pages.shape[1], math.prod(sizes[0]))
    device = maps.levels[0].device
    geometry = make_geometry(tuple(sizes), kernels.tile_rows, device)
    launch = Launch(geometry, maps, pages.to(device, torch.int32), weights)
    distances = torch.empty(launch.batch, geometry.pixels, k, device=device)
    matches = torch.empty(launch.batch, geometry.pixels, k, dtype=torch.int64, device=device)
    view = None if window is None else make_window(tuple(sizes), window, device)
    if view is None:
        of_query, of_position = buffer_bytes(kernels, geometry, maps, k)
    else:
        of_query, of_position = 0, view.pair_bytes()
    queries = max(1, min(GRID // launch.positions, working_memory // (of_query + of_position * launch.positions)))
    positions = min(launch.positions, GRID, max(1, (working_memory - of_query) // of_position))
    with _current(device):
        for first in range(0, launch.batch, queries):
            group = slice(first, first + queries)
            levels = [level[group].contiguous() for level in query]
            part = _Search(kernels, replace(launch, pages=launch.pages[group].contiguous()), levels, k)
            found = part.nearest(part.candidates(positions)) if view is None else part.in_window(view, positions)
            distances[group], matches[group] = found
    return distances, matches


def buffer_bytes(kernels: Kernels, geometry: Geometry, maps: FusedMaps, k: int) -> tuple[int, int]:
    """Return the bytes of buffers for a query, and for each of its neighbours."""
    blocks, rows = math.ceil(geometry.cells / kernels.block_cells), len(geometry.query_order)
    keys = 2 * 8 * geometry.pixels * (k + EXTRA) * geometry.planes * kernels.block_cells
    pixels = [h * w for h, w in geometry.sizes[1:]]
    features = sum(
        n * c * (4 + maps.levels[0].element_size()) for n, c in zip([rows, *pixels], maps.channels, strict=True)
    )
    coarse = sum(n * n for n in pixels) + (0 if geometry.nested else 2 * geometry.cells**2)
    return keys + features, 4 * (rows * blocks + coarse)


@dataclass(frozen=True)
class _Search:
    """The search of a group of queries."""

    kernels: Kernels
    launch: Launch
    query: Sequence[Tensor]  # levels [B, H*W, C]
    k: int

    def candidates(self, positions: int) -> Tensor:
        """Return keys of the pixels that may be the k nearest: int64 [B, P, k + SPARE], or fewer if there are fewer.

        `positions` neighbours are searched at a time.
        """
        whole, geometry = self.launch, self.launch.geometry
        ordered = [self.query[0].index_select(1, geometry.query_order), *self.query[1:]]
        rows = [scale_rows(q, level.shape[2], level.dtype) for q, level in zip(ordered, whole.maps.levels, strict=True)]
        keys = torch.empty(whole.batch, geometry.pixels, 0, dtype=torch.int64, device=whole.pages.device)
        for launch in self._parts(positions):
            coarse = self._coarse(launch, rows)
            minima = self.kernels.block_minima(launch, rows[0], coarse)
            count = min(self.k + EXTRA, minima.shape[2])
            found = self.kernels.rescan(launch, self.query[0], minima, coarse, count)
            keys = torch.cat([keys, found], 2) if launch.first_position else found
            keys = keys.topk(min(self.k + SPARE, keys.shape[2]), largest=False, sorted=False).values
        return keys

    def _parts(self, positions: int) -> Iterator[Launch]:
        """Yield launches of `positions` neighbours at a time."""
        for first in range(0, self.launch.positions, positions):
            pages = self.launch.pages[:, first : first + positions].contiguous()
            yield replace(self.launch, pages=pages, first_position=first)

    def in_window(self, window: Window, positions: int) -> tuple[Tensor, Tensor]:
        """Return the k nearest pixels in a window; `positions` neighbours are searched at a time."""
        near = Nearest(window, self.launch.weights, self.launch.batch, self.k, self.launch.pages.device)
        for launch in self._parts(positions):
            near.add(partial(self._measure, window, launch), launch.positions, launch.first_position)
        return near.result()

    def _measure(self, window: Window, launch: Launch, level: int, shift: int) -> Tensor:
        return self.kernels.window_distances(launch, level, self.query[level], shift, window.reaches[level])

    def _coarse(self, launch: Launch, rows: Sequence[ScaledRows]) -> Tensor | None:
        """Return the coarse levels' distances of cells less |q|^2: float32 [B, cells, K, cells]; None without any."""
        total: Tensor | None = None
        for level in range(len(rows) - 1, 0, -1):
            if launch.geometry.nested:  # level 1's pixels are the cells
                total = self.kernels.coarse_distances(launch, level, rows[level], total)
            else:
                pixels = launch.geometry.level_cells[level - 1]
                alone = self.kernels.coarse_distances(launch, level, rows[level], None)  # [B, H*W, K, H*W]
                of_cells = alone.index_select(1, pixels).index_select(3, pixels)  # [B, cells, K, cells]
                total = of_cells if total is None else total.add_(of_cells)
        return total

    def nearest(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Measure candidates [B, P, n]; return the k nearest, of equal distances those of the lowest matches."""
        found, matches = split_keys(keys)
        distances = torch.zeros(keys.shape, device=keys.device)
        for level, query in enumerate(self.query):
            self.kernels.differences(self.launch, level, query, matches, distances)
        distances.masked_fill_(found == math.inf, math.inf)
        nearest = (distances.view(torch.int32).long() << 32 | matches).topk(self.k, largest=False).values
        return split_keys(nearest)
