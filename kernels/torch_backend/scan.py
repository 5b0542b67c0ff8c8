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
SMALL = 1 << 18  # values: smaller maps are loaded and multiplied together, so that operations are few


class Scanner:
    """Scans some gallery maps at a time, in buffers that all maps and queries reuse."""

    def __init__(self, plan: Plan, maps: int, tile_bytes: int = TILE_BYTES) -> None:
        """Allocate buffers for `maps` maps at a time, and tiles of `tile_bytes`."""
        self.plan, self.layout = plan, plan.layout
        self.cells, self.planes = plan.layout.cells, plan.layout.planes
        # Cells of all maps are together in each plane of the finest level, so that one product compares with them all.
        shapes = [(self.planes, maps, self.cells), *((maps, n) for n in plan.rows[1:])]
        self.gallery = [self._empty(*shape, plan.columns(i), dtype=plan.dtypes[i]) for i, shape in enumerate(shapes)]
        kept = 0 if self._is_direct else self.planes + (self.planes > 1)  # products and their least, for each distance
        of_row = self.cells * (kept * plan.dtypes[0].itemsize + 4)  # bytes of a tile's row for each map
        self.together = 1 if plan.bilinear else min(maps, max(1, tile_bytes // (self.cells * of_row)))
        columns = padded(self.together * self.cells)
        self.height = math.ceil(self.cells / math.ceil(self.cells * self.together * of_row / tile_bytes))
        self.products = self._empty(min(kept, self.planes) * self.height * columns, dtype=plan.dtypes[0])
        self.least = self._empty(self.height * columns if self.planes > 1 else 0, dtype=plan.dtypes[0])
        self.distances = self._empty(self.height * columns)
        self.coarse = self._empty(self.cells, padded(maps * self.cells) if self.layout.places else 0)
        self.coarse_products = [
            self._empty(len(order) * n * min(maps, _together(len(order) * n)), dtype=dtype)
            for order, n, dtype in zip(plan.query_orders[1:], plan.rows[1:], plan.dtypes[1:], strict=True)
            if self.layout.places
        ]
        self.interpolated_norms = self._empty(maps, plan.pixels if plan.bilinear else 0)
        self.maps = 0

    def _empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.plan.device)

    @property
    def _is_direct(self) -> bool:
        """Whether products of the finest level are distances as they are."""
        return self.planes == 1 and self.plan.dtypes[0] == torch.float32

    @staticmethod
    def bytes_of(plan: Plan) -> int:
        """Return the bytes that a scanner needs for each of its maps: features and coarse distances."""
        features = sum(n * plan.columns(i) * plan.dtypes[i].itemsize for i, n in enumerate(plan.rows))
        return features + (4 * plan.layout.cells**2 if plan.layout.places else 0)

    def load(self, slots: Sequence[int]) -> Tensor:
        """Load the maps of some slots; return upper bounds [2] of their rows' squared norms, as in `Query.norms`."""
        plan, self.maps = self.plan, len(slots)
        norms = torch.zeros(2, self.maps, device=plan.device)
        for level, pool in enumerate(plan.pool):
            step = _together(plan.rows[level] * pool.shape[2])
            for first in range(0, self.maps, step):
                norms[:, first : first + step] += self._load_level(level, slots[first : first + step], first)
        finite = norms.isfinite().all(0)
        for place in (~finite).nonzero().flatten().tolist():
            self._put_far(place)
        return norms.where(finite, 0.0).amax(1)

    def _load_level(self, level: int, slots: Sequence[int], first: int) -> Tensor:
        """Load a level of some maps to places `first`..; return their rows' largest squared norms [2, maps]."""
        plan, pool = self.plan, self.plan.pool[level]
        rows = plan.orders[level] + pool.shape[1] * torch.tensor(slots, device=plan.device)[:, None]  # [maps, rows]
        into = self.gallery[level].narrow(-3, first, len(slots))
        if level == 0:
            rows = rows.view(len(slots), self.planes, self.cells).transpose(0, 1)
        features = pool.flatten(0, 1).index_select(0, rows.flatten()).view(*rows.shape, -1)
        norms = torch.stack(write_rows(plan, level, features, into))
        if level and plan.bilinear:
            for place, of_map in enumerate(into, first):
                of_level = interpolated_norms(plan, level, of_map)
                self.interpolated_norms[place] = of_level + (self.interpolated_norms[place] if level > 1 else 0)
        return norms.amax((1, 3)) if level == 0 else norms.amax(2)

    def _put_far(self, place: int) -> None:
        """Move a map that is not finite far away, so that it affects no other map's result."""
        for level in self.gallery:
            level.select(-3, place).zero_()
        self.gallery[0][:, place, :, self.plan.pool[0].shape[2]] = FAR
        self.gallery[0][:, place, :, -1] = 1.0
        self.interpolated_norms[place] = 0.0

    def bounds(self, query: Query) -> Tensor:
        """Return the coarse levels' distances: float32 [cells of the query, cells of the loaded maps].

        The columns are padded with infinity to a multiple of BLOCK.
        """
        columns = self.maps * self.cells
        self.coarse[:, columns : padded(columns)] = math.inf
        for level in range(1, len(self.gallery)):
            q, gallery = query.rows[level], self.gallery[level][: self.maps]
            step = _together(len(q) * gallery.shape[1])
            for first in range(0, self.maps, step):
                some = gallery[first : first + step]
                here = self.coarse.narrow(1, first * self.cells, len(some) * self.cells)
                self._add_level(here, q, some, level)
        return self.coarse[:, : padded(columns)]

    def _add_level(self, coarse: Tensor, q: Tensor, g: Tensor, level: int) -> None:
        """Add a coarse level's distances of maps g [maps, rows, columns] to `coarse` [cells, maps * cells].

        Level 1 overwrites it.
        """
        maps, rows, _ = g.shape
        places = self.layout.places[level - 1]
        direct = rows == self.cells and self.layout.periodic
        if direct and level == 1 and q.dtype == torch.float32:
            torch.mm(q, g.flatten(0, 1).T, out=coarse)
            return
        product = self.coarse_products[level - 1][: len(q) * maps * rows].view(len(q), maps * rows)
        product = torch.mm(q, g.flatten(0, 1).T, out=product).view(len(q), maps, rows)
        if not direct:
            product = product.index_select(0, places[self.plan.query_cells]) if len(q) != self.cells else product
            product = product if self.layout.periodic else product.index_select(2, places)
        into = coarse.unflatten(1, (maps, -1, product.shape[2]))
        # Adding bfloat16 to float32 directly is several times slower than converting it first.
        into.copy_(product[:, :, None]) if level == 1 else into.add_(product.float()[:, :, None])

    def scan(self, query: Query, found: Found, coarse: Tensor | None, ids: Tensor) -> None:
        """Sift the distances of every pixel to every cell of the loaded maps; `ids` are [maps * cells]."""
        for place in range(0, self.maps, self.together):
            columns = slice(place * self.cells, min(place + self.together, self.maps) * self.cells)
            products = self._multiply_map(query, place) if self.plan.bilinear else []
            for start in range(0, self.planes * self.cells, self.cells):
                for first in range(0, self.cells, self.height):
                    cells = slice(first, min(first + self.height, self.cells))
                    rows = torch.arange(start + cells.start, start + cells.stop, device=self.plan.device)
                    distances = self._distances_of(query.rows[0][start + cells.start : start + cells.stop], columns)
                    into = distances[:, : columns.stop - columns.start]
                    if coarse is not None:
                        into += coarse[cells, columns]
                    if products:
                        self._add_interpolated(into, query, products, place, cells)
                    found.sift(rows, distances, ids[columns])
            found.settle()

    def _distances_of(self, q: Tensor, columns: slice) -> Tensor:
        """Return the finest level's least distances of rows q [n, columns] to each cell's pixels.

        float32 [n, cells], padded with infinity to a multiple of BLOCK.
        """
        cells = columns.stop - columns.start
        distances = self.distances[: len(q) * padded(cells)].view(len(q), -1)
        distances[:, cells:] = math.inf
        into = distances[:, :cells]
        gallery = self.gallery[0].flatten(1, 2)[:, columns]
        if self._is_direct:
            torch.mm(q, gallery[0].T, out=into)
            return distances
        products = self.products[: self.planes * into.numel()].view(self.planes, *into.shape)
        for child, product in zip(gallery, products, strict=True):
            torch.mm(q, child.T, out=product)
        least = products[0]
        if self.planes > 1:
            least = self.least[: into.numel()].view(into.shape)
            torch.amin(ordered(products), 0, out=ordered(least))
        into.copy_(least)
        return distances

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


def _together(values: int) -> int:
    """Return how many maps are loaded or multiplied at a time if one takes this many values."""
    return max(1, SMALL // values)


def ordered(distances: Tensor) -> Tensor:
    """View distances in a form with a fast minimum: bfloat16 as its bits, which order in the same way.

    Distances are negative only by rounding, and then nearly 0.
    """
    return distances.view(torch.int16) if distances.dtype == torch.bfloat16 else distances


def padded(columns: int) -> int:
    """Return the next multiple of BLOCK."""
    return math.ceil(columns / BLOCK) * BLOCK
