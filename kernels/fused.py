"""The pixel search in four kernels, for GPUs: no matrix of pixels by pixels is ever written.

1. `coarse_distances`: the coarse levels' distances, cells by cells, as products at their own resolution.
2. `block_minima`: the finest level's products, four child planes at a time, with the coarse term added; of every block
   of cells only the least is written.
3. `rescan`: the k nearest pixels lie in the blocks of the k least minima. Those, and EXTRA more for rounding, are
   compared pixel by pixel.
4. `differences`: what is left is measured as float32 differences over all levels.

What the kernels are written in is up to a backend; this file is what all share.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial, reduce
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from . import torch_backend
from .per_level import search_levels
from .pyramid import Layout, Size, is_nested, make_layout, nearest_index

WORKING_MEMORY = 1 << 30
EXTRA = 2  # blocks beyond k that are compared
SPARE = 7  # pixels beyond k that are measured
GRID = 65_535  # pairs of a query and a map in one launch, at most: a limit of CUDA's grids
ALIGNED = 16  # bytes: rows start at multiples, as tensor descriptors and wide loads want
PLANES_TOGETHER = 16  # of a query's planes, rows that lie in one tile, at most


@dataclass(frozen=True)
class Geometry:
    """How the kernels see a pyramid: index tensors, on one device."""

    sizes: list[Size]
    planes: int
    cells: int
    nested: bool
    query_order: Tensor  # int64 [query rows]: the pixel of each row, planes of a few cells together
    row_cells: Tensor  # int32 [query rows]: the cell of each
    query_row: Tensor  # int32 [P]: the row of a pixel
    pixel_cells: Tensor  # int32 [P]: the cell of a pixel
    members: Tensor  # int64 [planes * cells]: the pixels in a gallery map's order
    cell_pixels: Tensor  # int32 [planes * cells]: the same, but -1 where a cell has a pixel once more
    place: Tensor  # int32 [P]: where in that order a pixel is
    under: list[Tensor]  # of every level: int32 [P], its pixel under one of the finest
    over: list[Tensor]  # of nested levels 1..: int32 [H*W], the next level's pixel
    cells_under: list[Tensor]  # of levels 1..: int64 [cells], its pixel under a cell

    @property
    def pixels(self) -> int:
        """P, of the finest level."""
        return self.sizes[0][0] * self.sizes[0][1]


@lru_cache(maxsize=16)
def cells_of(sizes: tuple[Size, ...]) -> Layout:
    """A pyramid's cells, in raster order, on the CPU."""
    return make_layout(sizes, raster=True)


@lru_cache(maxsize=16)
def geometry(sizes: tuple[Size, ...], tile_rows: int, device: torch.device) -> Geometry:
    """The geometry of a pyramid for tiles of so many query rows, a power of two."""
    layout = cells_of(sizes)
    planes, cells, pixels = layout.planes, layout.cells, sizes[0][0] * sizes[0][1]
    together = min(planes & -planes, PLANES_TOGETHER, tile_rows)
    across = torch.arange(math.ceil(cells * together / tile_rows) * tile_rows // together).clamp_(max=cells - 1)
    by_tile = across.view(-1, 1, tile_rows // together).expand(-1, together, -1)  # [tiles, planes together, cells]
    groups = torch.arange(planes).view(-1, 1, together, 1)
    row_cells = by_tile.expand(len(groups), -1, -1, -1)
    query_order = layout.members[groups, row_cells].flatten()
    query_row = torch.empty(pixels, dtype=torch.int64)
    query_row[query_order] = torch.arange(len(query_order))
    members = layout.members.flatten()
    place = torch.full((pixels,), len(members)).scatter_reduce_(0, members, torch.arange(len(members)), "amin")
    again = place[members] != torch.arange(len(members))
    nested = is_nested(sizes)
    under = [nearest_index(size, sizes[0]) for size in sizes]
    over = [nearest_index(upper, size) for size, upper in pairwise(sizes[1:])] if nested else []

    def indices(tensor: Tensor) -> Tensor:
        return tensor.flatten().int().to(device)

    return Geometry(
        list(sizes),
        planes,
        cells,
        nested,
        query_order.to(device),
        indices(row_cells),
        indices(query_row),
        indices(layout.cell_of),
        members.to(device),
        indices(members.masked_fill(again, -1)),
        indices(place),
        [indices(u) for u in under],
        [indices(o) for o in over],
        [u[layout.members[0]].to(device) for u in under[1:]],
    )


@dataclass(frozen=True)
class FusedMaps:
    """Gallery maps as the kernels read them, one slot per image."""

    levels: list[Tensor]  # [slots, rows, columns]: rows of level 0 as Geometry.members, columns padded with zeros
    norms: list[Tensor]  # float32 [slots, rows]
    channels: list[int]

    @staticmethod
    def empty(
        slots: int, sizes: Sequence[Size], channels: Sequence[int], dtype: torch.dtype, device: torch.device
    ) -> "FusedMaps":
        """Room for so many maps of a pyramid."""
        layout = cells_of(tuple(sizes))
        rows = [layout.members.numel(), *(h * w for h, w in sizes[1:])]
        levels = [
            torch.zeros(slots, n, padded(c, dtype), dtype=dtype, device=device)
            for n, c in zip(rows, channels, strict=True)
        ]
        return FusedMaps(levels, [torch.zeros(slots, n, device=device) for n in rows], list(channels))

    @staticmethod
    def slot_bytes(sizes: Sequence[Size], channels: Sequence[int], dtype: torch.dtype) -> int:
        """Of one map's slot."""
        one = FusedMaps.empty(1, sizes, channels, dtype, torch.device("meta"))
        return sum(t.numel() * t.element_size() for t in (*one.levels, *one.norms))

    @staticmethod
    def of(
        pool: Sequence[Tensor], pages: Tensor, sizes: Sequence[Size], dtype: torch.dtype
    ) -> tuple["FusedMaps", Tensor]:
        """The maps of a pool that pages name, in a type, and the pages in their slots."""
        slots, pages = pages.to(pool[0].device).unique(return_inverse=True)
        maps = FusedMaps.empty(len(slots), sizes, [level.shape[2] for level in pool], dtype, pool[0].device)
        members = cells_of(tuple(sizes)).members.flatten().to(pool[0].device)
        maps.write(torch.arange(len(slots), device=slots.device), [level[slots] for level in pool], members)
        return maps, pages

    def write(self, slots: Tensor, maps: Sequence[Tensor], members: Tensor) -> None:
        """Put maps [n, H*W, C] in raster order into slots int64 [n]; `members` are the geometry's."""
        for number, level in enumerate(maps):
            rows = level.index_select(1, members) if number == 0 else level
            self.levels[number][slots, :, : self.channels[number]] = rows.to(self.levels[number].dtype)
            self.norms[number][slots] = torch.linalg.vector_norm(rows, dim=2, dtype=torch.float32).square_()


def common_type(levels: Sequence[Tensor]) -> torch.dtype:
    """The type that holds the values of all levels."""
    return reduce(torch.promote_types, (level.dtype for level in levels))


def padded(channels: int, dtype: torch.dtype) -> int:
    """Columns of rows of so many channels that start at ALIGNED bytes."""
    step = ALIGNED // dtype.itemsize
    return math.ceil(channels / step) * step


@dataclass(frozen=True)
class Rows:
    """A query's side of products."""

    values: Tensor  # [B, rows, columns], of the maps' type; each row scaled by a power of two
    factors: Tensor  # float32 [B, rows], 2 / scale


def scaled_rows(features: Tensor, columns: int, dtype: torch.dtype) -> Rows:
    """Rows of features [B, rows, C], such that float16 holds them whatever their size."""
    features = features.float()
    exponent = features.abs().amax(2, keepdim=True).frexp().exponent  # features < 2^exponent
    values = features.new_zeros(*features.shape[:2], columns, dtype=dtype)
    values[:, :, : features.shape[2]] = torch.ldexp(features, 12 - exponent)
    return Rows(values, torch.ldexp(torch.full_like(exponent, 2.0, dtype=torch.float32), exponent - 12).squeeze(2))


class Kernels(Protocol):
    """The four kernels, in some language. All tensors are contiguous and on one device.

    `query` is [B, rows, C] as it came, `rows` its scaled form, `maps` the gallery, `pages` int32 [B, K] its slots.
    """

    dtype: torch.dtype  # of both sides of products
    tile_rows: int  # query rows of a tile of `block_minima`: a power of two
    block_cells: int  # cells of a block

    def coarse_distances(
        self, level: int, rows: Rows, maps: FusedMaps, pages: Tensor, weight: float, above: Tensor | None, over: Tensor
    ) -> Tensor:
        """A coarse level's distances less |q|^2: float32 [B, H*W, K, H*W].

        To each is added the one `above` [B, h*w, K, h*w], of the next level, of the pixels `over` int32 [H*W] it.
        """

    def block_minima(
        self, shape: Geometry, rows: Rows, maps: FusedMaps, pages: Tensor, weight: float, coarse: Tensor | None
    ) -> Tensor:
        """The least distance, less |q|^2, in each block of cells of each map: float32 [B, query rows, K * blocks].

        `coarse` is float32 [B, cells, K, cells].
        """

    def rescan(
        self, shape: Geometry, minima: Tensor, query: Tensor, maps: FusedMaps, pages: Tensor, weight: float,
        coarse: Tensor | None, count: int, first_position: int,
    ) -> Tensor:  # fmt: skip
        """Keys (see `key_parts`) of all pixels in the `count` blocks of the least minima: int64 [B, P, n]."""

    def differences(
        self, level: int, shape: Geometry, query: Tensor, maps: FusedMaps, pages: Tensor, weight: float,
        matches: Tensor, distances: Tensor,
    ) -> None:  # fmt: skip
        """Add a level's squared distances to matches int64 [B, P, n] to `distances` float32 [B, P, n]."""


MakeKernels = Callable[[torch.dtype, int], Kernels]
"""A backend's kernels for maps of a type and so many cells; their `dtype` is that in which products are taken."""


def search(
    make_kernels: MakeKernels,
    query: Sequence[Tensor],
    pool: Sequence[Tensor] | FusedMaps,
    pages: Tensor,
    k: int = 1,
    *,
    sizes: Sequence[Size],
    weights: Sequence[float],
    mode: str,
    precision: str = "float32",
    prune: bool | None = None,
    working_memory: int | None = None,
) -> tuple[Tensor, Tensor]:
    """As `spade_index.kernels.nearest_pixels`, with checked arguments, by a backend's kernels.

    Products are taken in the maps' type, the query rounded to it, and accumulated in float32; what they find is
    measured as float32 differences. Where more than EXTRA blocks are as near as that rounding, a pixel that is farther
    by it may be found: seen with a few channels far from zero only. Maps of a pool that is not FusedMaps are copied,
    beside `working_memory`. `precision` and `prune` are not looked at. `concat-bilinear` is not fused: the
    torch backend computes it.

    FusedMaps as a pool are for `concat-nearest` only: ValueError otherwise.
    """
    if isinstance(pool, FusedMaps):
        if mode != "concat-nearest":
            raise ValueError(f"maps in the kernels' own layout are for concat-nearest, not {mode}")
        maps = pool
        kernels = make_kernels(maps.levels[0].dtype, cells_of(tuple(sizes)).cells)
    elif mode == "per-level":
        alone = partial(search, make_kernels)
        return search_levels(alone, query, pool, pages, k, sizes, weights, working_memory=working_memory)
    elif mode == "concat-bilinear":
        return torch_backend.nearest_pixels(
            query, pool, pages, k, sizes=sizes, weights=weights, mode=mode, precision=precision, prune=prune,
            working_memory=working_memory,
        )  # fmt: skip
    else:
        kernels = make_kernels(common_type(pool), cells_of(tuple(sizes)).cells)
        maps, pages = FusedMaps.of(pool, pages, sizes, kernels.dtype)
    return search_maps(kernels, query, maps, pages, k, sizes, weights, working_memory or WORKING_MEMORY)


@torch.no_grad()
def search_maps(
    kernels: Kernels,
    query: Sequence[Tensor],
    maps: FusedMaps,
    pages: Tensor,
    k: int,
    sizes: Sequence[Size],
    weights: Sequence[float],
    working_memory: int,
) -> tuple[Tensor, Tensor]:
    """Squared distances float32 [B, P, k] and matches int64 [B, P, k], of `concat-nearest`.

    A batch is cut into groups of queries, and if one query does not fit, its page into parts, such that buffers take
    about `working_memory` bytes.
    """
    device = maps.levels[0].device
    shape = geometry(tuple(sizes), kernels.tile_rows, device)
    pages = pages.to(device, torch.int32)
    batch, positions = pages.shape
    distances = torch.empty(batch, shape.pixels, k, device=device)
    matches = torch.empty(batch, shape.pixels, k, dtype=torch.int64, device=device)
    of_query, of_position = _bytes(kernels, shape, maps, k)
    queries = max(1, min(GRID // positions, working_memory // (of_query + of_position * positions)))
    positions = min(positions, GRID, max(1, (working_memory - of_query) // of_position))
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():  # kernels run on the current one
        for first in range(0, batch, queries):
            some = slice(first, first + queries)
            part = [level[some].contiguous() for level in query]
            found = _Search(kernels, shape, part, maps, pages[some], k, weights)
            distances[some], matches[some] = found.nearest(found.candidates(positions))
    return distances, matches


def _bytes(kernels: Kernels, shape: Geometry, maps: FusedMaps, k: int) -> tuple[int, int]:
    """Of buffers for a query, and for each of its neighbours."""
    blocks, rows = math.ceil(shape.cells / kernels.block_cells), len(shape.query_order)
    keys = 2 * 8 * shape.pixels * (k + EXTRA) * shape.planes * kernels.block_cells
    features = sum(
        n * c * (4 + maps.levels[0].element_size())
        for n, c in zip([rows, *(h * w for h, w in shape.sizes[1:])], maps.channels, strict=True)
    )
    pixels = [h * w for h, w in shape.sizes[1:]]
    coarse = sum(n * n for n in pixels) + (0 if shape.nested else 2 * shape.cells**2)
    return keys + features, 4 * (rows * blocks + coarse)


@dataclass(frozen=True)
class _Search:
    """The search of some queries."""

    kernels: Kernels
    shape: Geometry
    query: Sequence[Tensor]  # levels [B, H*W, C]
    maps: FusedMaps
    pages: Tensor  # int32 [B, K]
    k: int
    weights: Sequence[float]

    def candidates(self, positions: int) -> Tensor:
        """Keys of the pixels that may be the k nearest, of so many neighbours at a time: int64 [B, P, k + SPARE].

        Fewer where there are fewer pixels.
        """
        ordered = [self.query[0].index_select(1, self.shape.query_order), *self.query[1:]]
        rows = [scaled_rows(q, level.shape[2], level.dtype) for q, level in zip(ordered, self.maps.levels, strict=True)]
        keys = torch.empty(len(self.pages), self.shape.pixels, 0, dtype=torch.int64, device=self.pages.device)
        for first in range(0, self.pages.shape[1], positions):
            page = self.pages[:, first : first + positions].contiguous()
            given = page, self.weights[0], self._coarse(rows, page)
            minima = self.kernels.block_minima(self.shape, rows[0], self.maps, *given)
            count = min(self.k + EXTRA, minima.shape[2])
            found = self.kernels.rescan(self.shape, minima, self.query[0], self.maps, *given, count, first)
            keys = torch.cat([keys, found], 2) if first else found
            keys = keys.topk(min(self.k + SPARE, keys.shape[2]), largest=False, sorted=False).values
        return keys

    def _coarse(self, rows: Sequence[Rows], pages: Tensor) -> Tensor | None:
        """The coarse levels' distances of cells, less |q|^2: float32 [B, cells, K, cells]; None without such levels."""
        total: Tensor | None = None
        nowhere = torch.empty(0, dtype=torch.int32, device=pages.device)
        for level in range(len(rows) - 1, 0, -1):
            given = level, rows[level], self.maps, pages, self.weights[level]
            if self.shape.nested:  # a level's pixels lie whole under the next one's; cells are level 1's pixels
                over = self.shape.over[level - 1] if total is not None else nowhere
                total = self.kernels.coarse_distances(*given, total, over)
            else:
                under = self.shape.cells_under[level - 1]
                alone = self.kernels.coarse_distances(*given, None, nowhere)
                of_cells = alone.index_select(1, under).index_select(3, under)
                total = of_cells if total is None else total.add_(of_cells)
        return total

    def nearest(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """The k nearest of candidates, by float32 differences; equal distances go to the lowest match."""
        found, matches = key_parts(keys)
        distances = torch.zeros(keys.shape, device=keys.device)
        for level, (query, weight) in enumerate(zip(self.query, self.weights, strict=True)):
            self.kernels.differences(level, self.shape, query, self.maps, self.pages, weight, matches, distances)
        distances.masked_fill_(found == math.inf, math.inf)
        nearest = (distances.view(torch.int32).long() << 32 | matches).topk(self.k, largest=False).values
        return key_parts(nearest)


def key_parts(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Distances float32 and matches int64 of keys, int64 that order by distance and then by match.

    The upper half holds the distance's bits, all but the sign of negative ones turned, the lower half the match.
    """
    bits = (keys >> 32).int()
    return (bits ^ (bits >> 31 & 0x7FFFFFFF)).view(torch.float32), keys & 0xFFFFFFFF
