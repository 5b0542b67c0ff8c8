"""The scan of the torch backend: distances of a query's pixels to the cells of a few gallery maps at a time.

Each level's products are computed at its own resolution. The coarse levels give one distance for a pair of cells, a
lower bound of the distances of their pixels, to which the least distance of the finest level is added.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..pyramid import upsample_bilinear
from .features import Plan, Query, interpolated_norms, write_rows
from .found import BLOCK, Found

FAR = 1e30  # the squared norm of a map that is not finite
TILE_BYTES = 15 << 20  # of a tile of distances: few large operations beat staying in a core's cache


class Scanner:
    """Scans some gallery maps at a time, in buffers that all maps and queries reuse."""

    def __init__(self, plan: Plan, maps: int, tile_bytes: int = TILE_BYTES) -> None:
        """Allocate buffers for `maps` maps at a time, and tiles of `tile_bytes`."""
        self.plan, self.layout = plan, plan.layout
        self.cells, self.planes = plan.layout.cells, plan.layout.planes
        self.gallery = [self._empty(maps, n, plan.columns(i), dtype=plan.dtypes[i]) for i, n in enumerate(plan.rows)]
        of_row = self.cells * ((self.planes + 1) * plan.dtypes[0].itemsize + 4)
        self.height = math.ceil(self.cells / math.ceil(self.cells * of_row / tile_bytes))
        self.products = self._empty(self.planes, self.height, self.cells, dtype=plan.dtypes[0])
        self.least = self._empty(self.height, self.cells, dtype=plan.dtypes[0])
        self.distances = torch.full((self.height, padded(self.cells)), math.inf, device=plan.device)
        self.coarse = self._empty(self.cells, padded(maps * self.cells) if self.layout.places else 0)
        self.coarse_products = [
            self._empty(len(order), n, dtype=dtype)
            for order, n, dtype in zip(plan.query_orders[1:], plan.rows[1:], plan.dtypes[1:], strict=True)
            if self.layout.places
        ]
        self.interpolated_norms = self._empty(maps, plan.pixels if plan.bilinear else 0)
        self.maps = 0

    def _empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.plan.device)

    @staticmethod
    def bytes_of(plan: Plan) -> int:
        """Return the bytes that a scanner needs for each of its maps: features and coarse distances."""
        features = sum(n * plan.columns(i) * plan.dtypes[i].itemsize for i, n in enumerate(plan.rows))
        return features + (4 * plan.layout.cells**2 if plan.layout.places else 0)

    def load(self, slots: Sequence[int]) -> Tensor:
        """Load the maps of some slots; return upper bounds [2] of their rows' squared norms, as in `Query.norms`."""
        plan, self.maps = self.plan, len(slots)
        largest = torch.zeros(2, device=plan.device)
        for place, slot in enumerate(slots):
            norms = torch.zeros(2, device=plan.device)
            for level, (pool, order) in enumerate(zip(plan.pool, plan.orders, strict=True)):
                rows = self.gallery[level][place]
                of_level, moved = write_rows(plan, level, pool[slot].index_select(0, order), rows)
                norms += torch.stack([of_level.amax(), moved.amax()])
                if level and plan.bilinear:
                    of_level = interpolated_norms(plan, level, rows)
                    self.interpolated_norms[place] = of_level + (self.interpolated_norms[place] if level > 1 else 0)
            if norms.isfinite().all():
                largest = torch.maximum(largest, norms)
            else:
                self._put_far(place)
        return largest

    def _put_far(self, place: int) -> None:
        """Move a map that is not finite far away, so that it affects no other map's result."""
        for level in self.gallery:
            level[place].zero_()
        self.gallery[0][place, :, self.plan.pool[0].shape[2]] = FAR
        self.gallery[0][place, :, -1] = 1.0
        self.interpolated_norms[place] = 0.0

    def bounds(self, query: Query) -> Tensor:
        """Return the coarse levels' distances: float32 [cells of the query, cells of the loaded maps].

        The columns are padded with infinity to a multiple of BLOCK.
        """
        columns = self.maps * self.cells
        self.coarse[:, columns : padded(columns)] = math.inf
        for place in range(self.maps):
            here = self.coarse[:, place * self.cells : (place + 1) * self.cells]
            for level in range(1, len(self.gallery)):
                self._add_level(here, query.rows[level], self.gallery[level][place], level)
        return self.coarse[:, : padded(columns)]

    def _add_level(self, coarse: Tensor, q: Tensor, g: Tensor, level: int) -> None:
        """Add a coarse level's distances to `coarse` [cells, cells]; level 1 overwrites it."""
        places = self.layout.places[level - 1]
        direct = len(g) == self.cells and self.layout.periodic
        if direct and level == 1 and q.dtype == torch.float32:
            torch.mm(q, g.T, out=coarse)
            return
        product = torch.mm(q, g.T, out=self.coarse_products[level - 1])
        if not direct:
            product = product.index_select(0, places[self.plan.query_cells]) if len(q) != self.cells else product
            product = product if self.layout.periodic else product.index_select(1, places)
        into = coarse.unflatten(1, (-1, product.shape[1]))
        # Adding bfloat16 to float32 directly is several times slower than converting it first.
        into.copy_(product[:, None]) if level == 1 else into.add_(product.float()[:, None])

    def scan(self, query: Query, found: Found, coarse: Tensor | None, ids: Tensor) -> None:
        """Sift the distances of every pixel to every cell of the loaded maps; `ids` are [maps * cells]."""
        for place in range(self.maps):
            columns = slice(place * self.cells, (place + 1) * self.cells)
            products = self._multiply_map(query, place) if self.plan.bilinear else []
            for start in range(0, self.planes * self.cells, self.cells):
                for first in range(0, self.cells, self.height):
                    cells = slice(first, min(first + self.height, self.cells))
                    rows = torch.arange(start + cells.start, start + cells.stop, device=self.plan.device)
                    least = self._least_of_children(query.rows[0][start + cells.start : start + cells.stop], place)
                    distances = self.distances[: len(least)]
                    into = distances[:, : self.cells]
                    if coarse is not None and least.dtype == into.dtype:
                        torch.add(least, coarse[cells, columns], out=into)
                    else:
                        into.copy_(least)
                        if coarse is not None:
                            into += coarse[cells, columns]
                    if products:
                        self._add_interpolated(into, query, products, place, cells)
                    found.sift(rows, distances, ids[columns])
            found.settle()

    def _least_of_children(self, q: Tensor, place: int) -> Tensor:
        """Return the finest level's least distances of rows q [n, columns] to each cell's pixels: [n, cells]."""
        products, least = self.products[:, : len(q)], self.least[: len(q)]
        for child, product in zip(
            self.gallery[0][place].unflatten(0, (self.planes, self.cells)), products, strict=True
        ):
            torch.mm(q, child.T, out=product)
        torch.amin(ordered(products), 0, out=ordered(least))
        return least

    def _multiply_map(self, query: Query, place: int) -> list[Tensor]:
        """Return -2 q.g of each coarse level of a map, [rows, rows], to be interpolated on both sides."""
        products = []
        for level in range(1, len(self.gallery)):
            channels = self.plan.pool[level].shape[2]
            products.append(query.rows[level][:, :channels] @ self.gallery[level][place, :, :channels].T)
        return products

    def _add_interpolated(
        self, distances: Tensor, query: Query, products: list[Tensor], place: int, cells: slice
    ) -> None:
        """Add the coarse levels to distances [n, P] of the pixels `cells` of the query's order."""
        plan, pixels = self.plan, self.plan.query_cells[cells]
        total = self.interpolated_norms[place][:, None] + query.coarse_norms[cells]  # [P, n]
        for product, size, (places, weights) in zip(products, plan.sizes[1:], plan.taps, strict=True):
            of_query = sum(product[p] * w[:, None] for p, w in zip(places[:, pixels], weights[:, pixels], strict=True))
            total += upsample_bilinear(of_query.T.contiguous(), size, plan.sizes[0])
        distances += total.T


def ordered(distances: Tensor) -> Tensor:
    """View distances in a form with a fast minimum: bfloat16 as its bits, which order in the same way.

    Distances are negative only by rounding, and then nearly 0.
    """
    return distances.view(torch.int16) if distances.dtype == torch.bfloat16 else distances


def padded(columns: int) -> int:
    """Return the next multiple of BLOCK."""
    return math.ceil(columns / BLOCK) * BLOCK
