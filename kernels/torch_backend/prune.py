"""Exact pruning: compare the finest pixels only of cells that their coarse distance does not rule out.

The coarse levels' distance of two cells is a lower bound of their pixels' distances. A few cells with the lowest bounds
are compared first; their distances bound the k-th distance from above, and cells beyond that bound are skipped.
"""

import torch
from torch import Tensor

from .features import Plan, Query
from .found import BLOCK, Found
from .scan import Scanner, ordered, padded

SEEDS = 4  # the least number of cells that are compared first
GATHERED = 1024  # gallery cells compared at a time
WORTHWHILE = 0.45  # the share of surviving pairs above which comparing all pairs is faster
SAMPLE, HOPELESS = 4, 0.6  # one tile in SAMPLE is looked at first; above a share of HOPELESS, pruning is given up


class Pruner:
    """Searches the maps that a scanner has loaded, with pruning."""

    @staticmethod
    def bytes_of(plan: Plan) -> int:
        """Return the bytes of a pruner's buffers, which do not depend on the number of maps."""
        gathered = plan.layout.planes * GATHERED
        rows = plan.layout.planes * max(len(tile) for tile in plan.layout.tiles)
        values = gathered * plan.columns(0) + rows * (gathered + GATHERED)
        return values * plan.dtypes[0].itemsize + 4 * rows * GATHERED

    def __init__(self, scanner: Scanner) -> None:
        self.scanner, layout = scanner, scanner.layout
        sizes = [len(tile) for tile in layout.tiles]
        self.tiles = torch.arange(layout.cells, device=scanner.plan.device).split(sizes)  # of the query's cells
        _, maps, cells, columns = scanner.gallery[0].shape
        rows, gathered = layout.planes * max(sizes), layout.planes * GATHERED
        self.gathered = scanner.gallery[0].new_empty(gathered, columns)
        self.products = scanner.gallery[0].new_empty(rows * gathered)
        self.distances = torch.empty(rows * GATHERED, device=scanner.plan.device)
        self.least = scanner.gallery[0].new_empty(rows * GATHERED)
        self.children = torch.arange(layout.planes * maps * cells, device=scanner.plan.device).view(layout.planes, -1)

    def seed(self, query: Query, found: Found, coarse: Tensor) -> None:
        """Compare the cells with the lowest coarse distances to bound the k-th distances, unless all are bounded."""
        layout, finest = self.scanner.layout, self.scanner.gallery[0].flatten(0, 2)
        blocks = coarse.unflatten(1, (-1, BLOCK))  # [cells, blocks, BLOCK]
        count = max(SEEDS, found.k)
        if not found.blind or blocks.shape[1] < count:
            return
        best = blocks.amin(2).topk(count, largest=False).indices  # [cells, count]
        q = query.rows[0].view(layout.planes, layout.cells, -1)
        kth = torch.empty(layout.planes, layout.cells, device=coarse.device)
        for cells in torch.arange(layout.cells, device=coarse.device).split(max(1, GATHERED // count)):
            bound, column = blocks[cells[:, None], best[cells]].min(2)  # [n, count]
            seeds = best[cells] * BLOCK + column
            children = self.children[:, seeds].transpose(0, 1)  # [n, planes, count]
            g = finest.index_select(0, children.flatten()).view(len(cells), layout.planes * count, -1)
            d = torch.bmm(q[:, cells].transpose(0, 1), g.mT).float().unflatten(2, (layout.planes, count)).amin(2)
            d += bound[:, None]  # [n, planes, count]
            kth[:, cells] = d.topk(found.k, largest=False).values[:, :, -1].T
        found.lower(kth.flatten())

    def survivors(self, found: Found, coarse: Tensor, force: bool) -> list[Tensor] | None:
        """Return, for each tile of the query, the maps' cells that its bounds do not rule out: int64 [n].

        Returns None if comparing all cells is faster, unless `force`.
        """
        limit = found.limit.view(self.scanner.planes, -1).amax(0)  # [cells]
        every = self.scanner.maps * self.scanner.cells
        left: dict[int, Tensor] = {}
        share = 0.0
        order = sorted(range(len(self.tiles)), key=lambda number: number % SAMPLE)  # the first ones spread over all
        for done, number in enumerate(order, 1):
            tile = self.tiles[number]
            slack = (coarse[tile[0] : tile[-1] + 1, :every] - limit[tile][:, None]).amin(0)
            left[number] = (~(slack > 0)).nonzero().squeeze(1)  # includes tiles with a query pixel that is not finite
            share += len(left[number]) / every
            allowed = WORTHWHILE if done == len(order) else HOPELESS
            if not force and SAMPLE * done >= len(order) and share > allowed * done:
                return None
        return [left[number] for number in range(len(self.tiles))]

    def pairs(self, survivors: list[Tensor]) -> int:
        """Return the number of pairs of a query pixel and a surviving cell."""
        return sum(len(tile) * self.scanner.planes * len(s) for tile, s in zip(self.tiles, survivors, strict=True))

    def compare(self, query: Query, found: Found, coarse: Tensor, survivors: list[Tensor], ids: Tensor) -> None:
        """Sift the distances of every pixel to the cells that survive for its tile."""
        layout = self.scanner.layout
        finest, by_plane = self.scanner.gallery[0].flatten(0, 2), query.rows[0].view(layout.planes, layout.cells, -1)
        planes = torch.arange(layout.planes, device=coarse.device)[:, None] * layout.cells
        for tile, cells in zip(self.tiles, survivors, strict=True):
            here = slice(int(tile[0]), int(tile[-1]) + 1)
            q = by_plane[:, here].flatten(0, 1)  # [planes * cells of the tile, columns]
            rows = (planes + tile).flatten()
            for some in cells.split(GATHERED) if len(cells) else ():
                n = len(some)
                children = self.children.index_select(1, some).flatten()
                g = torch.index_select(finest, 0, children, out=self.gathered[: len(children)])
                products = self.products[: len(q) * len(g)].view(len(q), len(g))
                torch.mm(q, g.T, out=products)
                least = self.least[: len(q) * n].view(len(q), n)
                torch.amin(ordered(products).view(len(q), layout.planes, n), 1, out=ordered(least))
                distances = self.distances[: len(q) * padded(n)].view(layout.planes, len(tile), padded(n))
                distances[:, :, n:] = torch.inf
                distances[:, :, :n] = least.view(layout.planes, len(tile), n)
                distances[:, :, :n] += coarse[here].index_select(1, some)
                found.sift(rows, distances.flatten(0, 1), ids.index_select(0, some))
        found.settle()
