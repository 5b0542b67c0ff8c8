"""First pass of the torch backend: the minima of expanded distances over blocks of gallery pixels.

|q - g|^2 = |q|^2 + |g|^2 - 2 q.g, both sides centred on the gallery map's mean, which keeps the terms small. Each
level's products are taken at its own resolution: a coarse term is added once for all the fine pixels under it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .pyramid import Layout, Size, is_nested, nested_layout, upsample_bilinear, upsampled_layout

BLOCK = 64  # gallery pixels per block: a smaller block costs memory, a larger one time in the second pass
CPU_TILE = 5 << 19  # bytes of products of one plane: fewer, larger operations beat staying in a core's cache


@dataclass(frozen=True)
class Plan:
    """What is searched, and how the gallery's pixels are cut into blocks."""

    pool: Sequence[Tensor]  # levels [slots, H*W, C]
    sizes: Sequence[Size]
    weights: Sequence[float]
    bilinear: bool
    nested: bool
    layout: Layout
    block_cells: Tensor  # int64 [blocks, cells of a block]
    block_pixels: Tensor  # int64 [blocks, cells of a block * planes]: finest pixels

    @property
    def pixels(self) -> int:
        return self.pool[0].shape[1]

    @property
    def device(self) -> torch.device:
        return self.pool[0].device

    def arrange(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Levels [H*W, C] of a query in the layout's order: float32 [rows, C] each."""
        return [f[rows] for f, rows in zip(self.features(levels), self.layout.query_rows, strict=True)]

    def features(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Levels [H*W, C] of an image as they are compared: float32, [P, C] each where interpolated."""
        if self.bilinear:
            pairs = zip(levels, self.sizes, strict=True)
            return [upsample_bilinear(f.float(), size, self.sizes[0]) for f, size in pairs]
        return [f.float() for f in levels]


def make_plan(
    pool: Sequence[Tensor],
    sizes: Sequence[Size],
    weights: Sequence[float],
    bilinear: bool,
    neighbours: int,
    memory: int,
) -> Plan:
    """A plan whose blocks are large enough for the minima of one query, [K, blocks, P], to fit in `memory` bytes."""
    nested = not bilinear and len(sizes) > 1 and is_nested(sizes)
    layout = (nested_layout(sizes) if nested else upsampled_layout(sizes, bilinear)).to(pool[0].device)
    planes, cells = layout.members.shape
    block = max(1, BLOCK // planes)
    while block < cells and 4 * neighbours * pool[0].shape[1] * math.ceil(cells / block) > memory:
        block *= 2
    block = min(block, cells)
    # A last block that is cut short repeats its last cell.
    ordered = torch.arange(math.ceil(cells / block) * block, device=pool[0].device).clamp_(max=cells - 1)
    block_cells = ordered.view(-1, block)
    block_pixels = layout.members.T[block_cells].flatten(1)
    return Plan(pool, sizes, weights, bilinear, nested, layout, block_cells, block_pixels)


class Scanner:
    """Scans one gallery map at a time, in buffers that are used again for every map, query and tile."""

    def __init__(self, plan: Plan, tile: int = CPU_TILE) -> None:
        """`tile` is the bytes to use for the products of one plane of the map with some pixels of the query."""
        self.plan, self.planes, self.cells = plan, *plan.layout.members.shape
        rows = [len(r) for r in plan.layout.query_rows]
        places = [level.shape[1] for level in plan.pool]
        columns = [level.shape[2] + 1 for level in plan.pool]
        # A tile lies within one plane of the query, where its columns of the coarse term are consecutive.
        self.stride = rows[1] if plan.nested else rows[0]
        tiles = min(self.stride, math.ceil(4 * self.cells * self.stride / tile))
        self.width = math.ceil(self.stride / tiles)
        self.queried = self._buffers(rows, columns)
        for q in self.queried:
            q[:, -1] = 1.0  # meets the gallery's norms, which stand in the last column of its matrix
        self.matrices = self._buffers(places, columns)
        self.coarse = self._buffers(places[1:], rows[1:] if plan.nested else [self.width] * len(rows[1:]))
        self.products = self._buffers([self.cells] * 2, [self.width] * 2)
        self.centres: list[Tensor] = []
        self.largest = torch.zeros((), device=plan.device)

    def _buffers(self, rows: Sequence[int], columns: Sequence[int]) -> list[Tensor]:
        return [torch.empty(r, c, device=self.plan.device) for r, c in zip(rows, columns, strict=True)]

    def load(self, slot: int) -> None:
        """Take up a map: matrices w * [g, |g|^2] of its levels, centred, and its largest squared norm."""
        plan = self.plan
        self.centres, self.largest = [], torch.zeros((), device=plan.device)
        for level, (pool, matrix, w) in enumerate(zip(plan.pool, self.matrices, plan.weights, strict=True)):
            g = pool[slot]
            self.centres.append(g.mean(0, dtype=torch.float32))
            if level == 0 and self.planes > 1:
                g = g.index_select(0, plan.layout.members.flatten())
            centred = torch.sub(g, self.centres[-1], out=matrix[:, :-1])
            if level and plan.bilinear:
                norms = _square_norms(upsample_bilinear(centred, plan.sizes[level], plan.sizes[0]))
                self.matrices[0][:, -1].add_(norms, alpha=w)
                matrix[:, -1] = 0.0
            else:
                norms = _square_norms(centred)
                matrix[:, -1] = norms
            if w != 1:
                matrix *= w
            self.largest += w * norms.max()

    def scan(self, query: Sequence[Tensor], out: Tensor) -> Tensor:
        """Write the loaded map's block minima for an arranged query: out [blocks, P].

        Returns the scale of the terms in them, the squared norms of both sides: [P].
        """
        norms = self._centre(query)
        if self.plan.nested:
            self._combine_coarse()
        for plane in range(0, self.plan.pixels, self.stride):
            for first in range(0, self.stride, self.width):
                last = min(first + self.width, self.stride)
                columns = slice(plane + first, plane + last)
                nearest = self._nearest_by_cell(self.queried[0][columns].T)
                if self.plan.nested:
                    nearest += self.coarse[0][:, first:last]
                else:
                    self._add_upsampled(nearest, columns)
                self._reduce_blocks(nearest, out[:, columns])
        out += norms
        return norms + self.largest

    def _centre(self, query: Sequence[Tensor]) -> Tensor:
        """Centre a query on the loaded map, as -2 q; returns its pixels' squared norms over all levels [P]."""
        norms = torch.zeros(self.plan.pixels, device=self.plan.device)
        for q, centre, queried, w in zip(query, self.centres, self.queried, self.plan.weights, strict=True):
            centred = torch.add(2 * centre, q, alpha=-2, out=queried[:, :-1])
            norms.view(-1, len(q)).add_(_square_norms(centred), alpha=w / 4)
        return norms

    def _nearest_by_cell(self, q: Tensor) -> Tensor:
        """The finest level's distances to q [C + 1, n], the least of every cell's children: [cells, n]."""
        best, other = (_part(buffer, self.cells, q.shape[1]) for buffer in self.products)
        children = self.matrices[0].view(self.planes, self.cells, -1)
        torch.mm(children[0], q, out=best)
        for child in children[1:]:
            torch.minimum(best, torch.mm(child, q, out=other), out=best)
        return best

    def _combine_coarse(self) -> None:
        """Make the coarse term [n1, n1] of nested levels, from the coarsest up; rows raster, columns by plane."""
        coarser, sizes = None, self.plan.sizes
        for level in range(len(sizes) - 1, 0, -1):
            out = torch.mm(self.matrices[level], self.queried[level].T, out=self.coarse[level - 1])
            if coarser is not None:
                (h, w), (ch, cw) = sizes[level], sizes[level + 1]
                columns = ch * cw
                out.view(ch, h // ch, cw, w // cw, -1, columns).add_(coarser.view(ch, 1, cw, 1, 1, columns))
            coarser = out

    def _add_upsampled(self, tile: Tensor, columns: slice) -> None:
        """Add the levels that do not nest to a tile [P, n]: the gallery's side is upsampled here."""
        plan = self.plan
        for level in range(1, len(plan.sizes)):
            matrix, q = self.matrices[level], self.queried[level][columns]
            product = torch.mm(matrix, q.T, out=_part(self.coarse[level - 1], len(matrix), len(q)))
            if plan.bilinear:
                tile += upsample_bilinear(product, plan.sizes[level], plan.sizes[0])
            else:
                tile += product.index_select(0, plan.layout.cell_rows[level - 1])

    def _reduce_blocks(self, tile: Tensor, out: Tensor) -> None:
        """Write the minimum of every block of cells: tile [cells, n] to out [blocks, n]."""
        block = self.plan.block_cells.shape[1]
        whole = self.cells // block
        if whole:
            torch.amin(tile[: whole * block].view(whole, block, -1), 1, out=out[:whole])
        if whole < len(out):
            torch.amin(tile[whole * block :], 0, out=out[whole])


def _part(buffer: Tensor, rows: int, columns: int) -> Tensor:
    """The beginning of a buffer as a contiguous matrix, for the last tile of a plane is narrower."""
    return buffer.view(-1)[: rows * columns].view(rows, columns)


def _square_norms(features: Tensor) -> Tensor:
    """Squared norms [n] of features [n, C]; the norm is a single pass, which the sum of squares is not."""
    return torch.linalg.vector_norm(features, dim=1).square_()
