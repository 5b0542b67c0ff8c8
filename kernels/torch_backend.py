"""The pixel search in plain torch, on any device: one gallery map at a time, never a P x K*P matrix.

Distances are decomposed: each level's products are taken at its own resolution, and a coarse term is added once
for all the fine pixels that it covers. Two passes over the gallery's maps:

1. Scan. Expanded distances |q|^2 + |g|^2 - 2 q.g, in tiles of query pixels, of which only the minimum of every
   block of gallery pixels is kept. The k smallest distances lie in the k blocks with the smallest minima.
2. Rescore. The pixels of those blocks are measured again as float32 differences, which do not cancel.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .pyramid import Size, is_nested, nested_layout, upsample_bilinear, upsampled_layout

_BLOCK = 64  # gallery pixels per block: a smaller block costs memory, a larger one time in the second pass
_SPARE = 3  # blocks beyond k that are rescored where rounding could have hidden a winner in them
_CPU_TILE = 5 << 20  # bytes of a tile of products: about what two cores' caches hold
_RESCORE = 1 << 20  # feature values gathered at a time in the second pass

Users = dict[int, list[tuple[int, int]]]  # slot -> (query, position in its row of pages)


@torch.no_grad()
def nearest_pixels(
    query: Sequence[Tensor],
    pool: Sequence[Tensor],
    pages: Tensor,
    k: int = 1,
    *,
    sizes: Sequence[Size],
    weights: Sequence[float],
    mode: str,
    working_memory: int = 256 << 20,
) -> tuple[Tensor, Tensor]:
    """As `spade_index.kernels.nearest_pixels`, with checked arguments and no defaults left open.

    query levels [B, H*W, C], pool levels [slots, H*W, C], pages int64 [B, K]; returns squared distances
    float32 [B, P, k] and matches int64 [B, P, k].

    `working_memory` (bytes, default 256 MiB) bounds what grows with K, P and the batch: a batch is cut into
    groups of queries that fit. One query is always taken, and float32 copies of a query and of one gallery map
    come on top. A map that several queries of a group share is read and converted once for each pass. The
    result of a query does not depend on the others.

    Returned distances are differences, right to about 1e-6 of their value. Matches are the k nearest wherever
    the expanded form, centred on the gallery map, separates the k blocks of nearest pixels from the next three.
    Ties: among the pixels that were rescored, the lowest match comes first.
    """
    if mode == "per-level":
        return _per_level(query, pool, pages, k, sizes, weights, working_memory)
    search = _Search(query, pool, sizes, weights, mode == "concat-bilinear", pages.shape[1], working_memory)
    batch, (pixels, device) = pages.shape[0], (query[0].shape[1], query[0].device)
    distances = torch.empty(batch, pixels, k, device=device)
    matches = torch.empty(batch, pixels, k, dtype=torch.int64, device=device)
    for start in range(0, batch, search.group):
        rows = range(start, min(start + search.group, batch))
        for b, (d, m) in zip(rows, search.run(rows, pages[rows.start : rows.stop].tolist(), k), strict=True):
            distances[b], matches[b] = d, m
    return distances, matches


def _per_level(
    query: Sequence[Tensor],
    pool: Sequence[Tensor],
    pages: Tensor,
    k: int,
    sizes: Sequence[Size],
    weights: Sequence[float],
    working_memory: int,
) -> tuple[Tensor, Tensor]:
    total = torch.zeros(pages.shape[0], query[0].shape[1], k, device=query[0].device)
    finest = torch.empty(0)
    for level in reversed(range(len(query))):
        d, finest = nearest_pixels(
            [query[level]],
            [pool[level]],
            pages,
            k,
            sizes=[sizes[level]],
            weights=[1.0],
            mode="concat-nearest",
            working_memory=working_memory,
        )
        for b in range(pages.shape[0]):
            total[b].add_(upsample_bilinear(d[b], sizes[level], sizes[0]), alpha=weights[level] / len(query))
    return total, finest


class _Search:
    """One search: its layout, and buffers that are used again for every map, tile and query."""

    def __init__(
        self,
        query: Sequence[Tensor],
        pool: Sequence[Tensor],
        sizes: Sequence[Size],
        weights: Sequence[float],
        bilinear: bool,
        neighbours: int,
        working_memory: int,
    ) -> None:
        self.query, self.pool, self.sizes, self.weights = query, pool, sizes, weights
        self.bilinear, self.neighbours = bilinear, neighbours
        self.nested = not bilinear and len(sizes) > 1 and is_nested(sizes)
        self.device, self.pixels = query[0].device, query[0].shape[1]
        self.layout = (nested_layout(sizes) if self.nested else upsampled_layout(sizes, bilinear)).to(self.device)
        self._cut_blocks(working_memory // 2)
        self._allocate(_CPU_TILE if self.device.type == "cpu" else working_memory // 4)

    def _cut_blocks(self, memory: int) -> None:
        """Choose a block size for which one query's block minima fit in `memory`, and how many queries do."""
        planes, cells = self.layout.members.shape
        size = max(1, _BLOCK // planes)
        row = 4 * self.neighbours * self.pixels  # bytes of one block's minima
        while size < cells and row * math.ceil(cells / size) > memory:
            size *= 2
        self.block = min(size, cells)
        self.blocks = math.ceil(cells / self.block)
        self.group = max(1, memory // (row * self.blocks))
        # A last block that is cut short repeats its last cell.
        self.block_cells = torch.arange(self.blocks * self.block, device=self.device).clamp_(max=cells - 1)
        self.block_cells = self.block_cells.view(self.blocks, self.block)
        self.block_pixels = self.layout.members.T[self.block_cells].flatten(1)  # [blocks, block * planes]

    def _allocate(self, tile: int) -> None:
        def buffers(rows: Sequence[int], columns: Sequence[int]) -> list[Tensor]:
            return [torch.empty(r, c, device=self.device) for r, c in zip(rows, columns, strict=True)]

        rows = [len(r) for r in self.layout.query_rows]
        places = [level.shape[1] for level in self.pool]
        channels = [level.shape[2] for level in self.pool]
        self.queried = buffers(rows, [c + 1 for c in channels])
        for q in self.queried:
            q[:, -1] = 1.0  # meets the gallery's norms, which stand in the last column of its matrix
        self.matrices = buffers(places, [c + 1 for c in channels])
        # A tile lies within one plane of the query, where its columns of the coarse term are consecutive.
        self.plane = rows[1] if self.nested else rows[0]
        tiles = min(self.plane, math.ceil(4 * self.pixels * self.plane / tile))
        self.width = math.ceil(self.plane / tiles)
        self.coarse = buffers(places[1:], rows[1:] if self.nested else [self.width] * (len(places) - 1))
        self.tile = torch.empty(self.pixels * self.width, device=self.device)
        self.cell_minima = torch.empty(self.layout.cells * self.width, device=self.device)

    def run(self, batch: Sequence[int], pages: list[list[int]], k: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Distances [P, k] and matches [P, k] of each query of `batch`."""
        users: Users = defaultdict(list)
        for q, slots in enumerate(pages):
            for position, slot in enumerate(slots):
                users[slot].append((q, position))
        queries = [self._query(b) for b in batch]
        minima = torch.empty(len(batch), self.neighbours, self.blocks, self.pixels, device=self.device)
        scale = torch.zeros(len(batch), self.pixels, device=self.device)
        for slot, wanted in users.items():
            centres, largest = self._load(slot)
            for q, position in wanted:
                norms = self._centre(queries[q], centres)
                self._scan(norms, minima[q, position])
                torch.maximum(scale[q], norms + largest, out=scale[q])
        chosen = [_choose(m, k, s * self._rounding()) for m, s in zip(minima, scale, strict=True)]
        found = self._rescore(queries, users, chosen, k)
        for distances, matches in found:
            d, m = _smallest(distances.flatten(1), matches.flatten(1), k)
            back = self.layout.query_rows[0].argsort()
            yield d[back], m[back]

    def _rounding(self) -> float:
        """How far two expanded distances can be swapped by rounding, relative to the squared norms in them."""
        return 4 * torch.finfo(torch.float32).eps * math.sqrt(sum(level.shape[2] for level in self.query))

    def _query(self, b: int) -> list[Tensor]:
        """Levels of a query in the layout's order: float32 [rows, C] each."""
        levels = []
        for level, size, rows in zip(self.query, self.sizes, self.layout.query_rows, strict=True):
            f = level[b].float()
            f = upsample_bilinear(f, size, self.sizes[0]) if self.bilinear else f
            levels.append(f.index_select(0, rows))
        return levels

    def _load(self, slot: int) -> tuple[list[Tensor], Tensor]:
        """Make matrices w * [g, |g|^2] of a map, centred; returns centres [C] and the largest squared norm."""
        centres = []
        largest = torch.zeros((), device=self.device)
        for level, (pool, matrix, w) in enumerate(zip(self.pool, self.matrices, self.weights, strict=True)):
            g = pool[slot]
            centres.append(g.mean(0, dtype=torch.float32))
            if level == 0 and self.layout.planes > 1:
                g = g.index_select(0, self.layout.members.flatten())
            centred = torch.sub(g, centres[-1], out=matrix[:, :-1])
            if level and self.bilinear:
                norms = _square_norms(upsample_bilinear(centred, self.sizes[level], self.sizes[0]))
                self.matrices[0][:, -1].add_(norms, alpha=w)
                matrix[:, -1] = 0.0
                matrix *= w
            else:
                norms = _square_norms(centred)
                matrix[:, -1] = norms
                if w != 1:
                    matrix *= w
            largest += w * norms.max()
        return centres, largest

    def _centre(self, query: list[Tensor], centres: list[Tensor]) -> Tensor:
        """Centre a query on the loaded map, as -2 q; returns its pixels' squared norms over all levels [P]."""
        norms = torch.zeros(self.pixels, device=self.device)
        for q, centre, queried, w in zip(query, centres, self.queried, self.weights, strict=True):
            centred = torch.add(2 * centre, q, alpha=-2, out=queried[:, :-1])
            norms.view(-1, len(q)).add_(_square_norms(centred), alpha=w / 4)
        return norms

    def _scan(self, norms: Tensor, out: Tensor) -> None:
        """Write the minima of the expanded distances over every block of the loaded map: out [blocks, P]."""
        if self.nested:
            self._combine_coarse()
        planes, cells = self.layout.members.shape
        for plane in range(0, self.pixels, self.plane):
            for first in range(0, self.plane, self.width):
                last = min(first + self.width, self.plane)
                columns = slice(plane + first, plane + last)
                tile = self.tile[: self.pixels * (last - first)].view(self.pixels, -1)
                torch.mm(self.matrices[0], self.queried[0][columns].T, out=tile)
                if planes > 1:
                    by_cell = self.cell_minima[: cells * (last - first)].view(cells, -1)
                    tile = torch.amin(tile.view(planes, cells, -1), 0, out=by_cell)
                if self.nested:
                    tile += self.coarse[0][:, first:last]
                else:
                    self._add_upsampled(tile, columns)
                self._reduce_blocks(tile, out[:, columns])
        out += norms

    def _combine_coarse(self) -> None:
        """Make the coarse term [n1, n1] of nested levels, from the coarsest up; rows raster, columns by plane."""
        coarser = None
        for level in range(len(self.sizes) - 1, 0, -1):
            out = self.coarse[level - 1]
            torch.mm(self.matrices[level], self.queried[level].T, out=out)
            if coarser is not None:
                (h, w), (ch, cw) = self.sizes[level], self.sizes[level + 1]
                columns = ch * cw
                out.view(ch, h // ch, cw, w // cw, -1, columns).add_(coarser.view(ch, 1, cw, 1, 1, columns))
            coarser = out

    def _add_upsampled(self, tile: Tensor, columns: slice) -> None:
        """Add the levels that do not nest to a tile [P, columns]: the gallery's side is upsampled here."""
        for level in range(1, len(self.sizes)):
            q = self.queried[level][columns]
            product = self.coarse[level - 1].flatten()[: len(self.matrices[level]) * len(q)].view(-1, len(q))
            torch.mm(self.matrices[level], q.T, out=product)
            if self.bilinear:
                tile += upsample_bilinear(product, self.sizes[level], self.sizes[0])
            else:
                tile += product.index_select(0, self.layout.cell_rows[level - 1])

    def _reduce_blocks(self, tile: Tensor, out: Tensor) -> None:
        """Write the minimum of every block of cells: tile [cells, n] to out [blocks, n]."""
        whole = len(tile) // self.block
        if whole:
            torch.amin(tile[: whole * self.block].view(whole, self.block, -1), 1, out=out[:whole])
        if whole < self.blocks:
            torch.amin(tile[whole * self.block :], 0, out=out[whole])

    def _rescore(
        self, queries: list[list[Tensor]], users: Users, chosen: list["_Chosen"], k: int
    ) -> list[tuple[Tensor, Tensor]]:
        """The k smallest distances of every chosen block and their matches: [P, m, k] each, for each query."""
        keep = min(k, self.block_pixels.shape[1])
        shape = (self.pixels, chosen[0].position.shape[1], keep)
        found = [
            (torch.full(shape, math.inf, device=self.device), torch.zeros(shape, dtype=torch.int64, device=self.device))
            for _ in queries
        ]
        widest = max(level.shape[2] for level in self.pool)
        step = max(1, _RESCORE // (self.block_pixels.shape[1] * widest))
        for slot, wanted in users.items():
            levels = self._features(slot)
            for q, position in wanted:
                rows, ranks = torch.nonzero(chosen[q].wanted & (chosen[q].position == position), as_tuple=True)
                for r, i in zip(rows.split(step), ranks.split(step), strict=True):
                    block = chosen[q].block[r, i]
                    d = self._differences(queries[q], levels, r, block)
                    matches = self.block_pixels[block] + position * self.pixels
                    found[q][0][r, i], found[q][1][r, i] = _smallest(d, matches, keep)
        return found

    def _features(self, slot: int) -> list[Tensor]:
        """Levels of a map as the second pass compares them: float32 [H*W, C], or [P, C] where interpolated."""
        levels = [level[slot].float() for level in self.pool]
        if self.bilinear:
            return [upsample_bilinear(f, size, self.sizes[0]) for f, size in zip(levels, self.sizes, strict=True)]
        return levels

    def _differences(self, query: list[Tensor], gallery: list[Tensor], rows: Tensor, block: Tensor) -> Tensor:
        """Distances of query rows [n] to the pixels of one block each [n]: [n, block * planes]."""
        d = _square_distances(query[0], gallery[0], rows, self.block_pixels[block]) * self.weights[0]
        by_cell = d.view(len(rows), self.block, self.layout.planes)
        cells = self.block_cells[block]  # [n, block]
        for level in range(1, len(gallery)):
            q, g, under = query[level], gallery[level], self.layout.cell_rows[level - 1]
            coarse = _square_distances(q, g, rows % len(q), under[cells])
            by_cell.add_(coarse[:, :, None], alpha=self.weights[level])
        return d


class _Chosen:
    """The m blocks of smallest minima of every query pixel, ascending, and which of them are to be rescored."""

    def __init__(self, position: Tensor, block: Tensor, wanted: Tensor) -> None:
        self.position, self.block, self.wanted = position, block, wanted  # [P, m] each


def _choose(minima: Tensor, k: int, rounding: Tensor) -> _Chosen:
    """Choose blocks by their minima [K, blocks, P], which are used up; `rounding` is their error [P].

    Equal minima go to the lowest position and block. Blocks beyond the first k are wanted where their minima are
    too close to the k-th for rounding.
    """
    neighbours, blocks, pixels = minima.shape
    m = min(k + _SPARE, neighbours * blocks)
    columns = torch.arange(pixels, device=minima.device)
    lowest = minima.amin(1)  # [K, P]
    values = minima.new_empty(pixels, m)
    position = torch.empty(pixels, m, dtype=torch.int64, device=minima.device)
    block = torch.empty_like(position)
    for i in range(m):
        position[:, i] = at = lowest.argmin(0)
        rows = minima[at, :, columns]  # [P, blocks]
        values[:, i], block[:, i] = rows.min(1)
        minima[at, block[:, i], columns] = math.inf
        rows.scatter_(1, block[:, i : i + 1], math.inf)
        lowest[at, columns] = rows.amin(1)
    wanted = values <= (values[:, min(k, m) - 1] + rounding)[:, None]
    wanted[:, :k] = True
    return _Chosen(position, block, wanted)


def _square_distances(q: Tensor, g: Tensor, rows: Tensor, places: Tensor) -> Tensor:
    """Squared distances of q[rows] [n, C] to g[places] [n, s, C]: float32 [n, s]."""
    gathered = g.index_select(0, places.flatten()).view(*places.shape, g.shape[1])
    return gathered.sub_(q.index_select(0, rows)[:, None]).square_().sum(2)


def _square_norms(features: Tensor) -> Tensor:
    """Squared norms [n] of features [n, C]; the norm is a single pass, which the sum of squares is not."""
    return torch.linalg.vector_norm(features, dim=1).square_()


def _smallest(distances: Tensor, matches: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of distances [n, s], which are used up, and their matches; equal ones by lowest match.

    A match that stands twice counts once.
    """
    distances.nan_to_num_(nan=math.inf, posinf=math.inf)
    far = torch.iinfo(matches.dtype).max
    d = distances.new_empty(len(distances), k)
    m = matches.new_empty(len(distances), k)
    for i in range(k):
        d[:, i] = distances.amin(1)
        m[:, i] = torch.where(distances == d[:, i : i + 1], matches, far).amin(1)
        distances.masked_fill_(matches == m[:, i : i + 1], math.inf)
    return d, m
