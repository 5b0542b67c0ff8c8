"""The scan of pyramids of a single level, as levels that are averaged to one grid are joined to.

One product gives the distances of a query's pixels to all loaded maps. There are no bounds to prune by.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .features import Plan, Query, write_rows
from .found import Found
from .scan import FAR, TILE_BYTES, padded


class SingleLevel:
    """Scans some gallery maps at a time, as `Scanner` does, in buffers that all maps and queries reuse."""

    def __init__(self, plan: Plan, maps: int, tile_bytes: int = TILE_BYTES) -> None:
        """Allocate buffers for `maps` maps at a time, and tiles of `tile_bytes`."""
        self.plan, self.cells, self.maps = plan, plan.layout.cells, 0
        dtype = plan.dtypes[0]
        self._gallery = torch.empty(maps * self.cells, plan.columns(0), dtype=dtype, device=plan.device)
        columns = padded(maps * self.cells)
        rounded = dtype.itemsize if dtype != torch.float32 else 0  # bytes of a product that is not yet a distance
        self._height = max(1, min(self.cells, tile_bytes // (columns * (4 + rounded))))
        self._height = math.ceil(self.cells / math.ceil(self.cells / self._height))  # tiles of about the same size
        self._distances = torch.empty(self._height * columns, device=plan.device)
        self._products = self._gallery.new_empty(self._height * columns if rounded else 0)

    @staticmethod
    def bytes_of(plan: Plan) -> int:
        """Return the bytes that each map needs: features as the pool stores them, and as rows."""
        return plan.pixels * (2 * plan.pool[0].shape[2] + plan.columns(0) * plan.dtypes[0].itemsize)

    def load(self, slots: Sequence[int]) -> Tensor:
        """Load the maps of some slots; return upper bounds [2] of their rows' squared norms, as in `Query.norms`."""
        plan, self.maps = self.plan, len(slots)
        together = 1 if plan.dtypes[0] != torch.float32 else len(slots)  # rounding takes memory of its own
        largest = torch.zeros(2, device=plan.device)
        for first in range(0, len(slots), together):
            rows = self._gallery[first * self.cells : (first + together) * self.cells]
            features = torch.cat([plan.pool[0][slot] for slot in slots[first : first + together]])
            norms = torch.stack(write_rows(plan, 0, features, rows)).view(2, together, self.cells).amax(2)
            finite = norms.isfinite().all(0)
            if not finite.all():  # such maps are moved far away, so that they affect no other map's result
                norms = norms.where(finite, 0.0)
                of_map = rows.view(together, self.cells, -1)
                of_map[~finite] = 0.0
                of_map[~finite, :, plan.pool[0].shape[2]] = FAR
                of_map[~finite, :, -1] = 1.0
            largest = torch.maximum(largest, norms.amax(1))
        return largest

    def scan(self, query: Query, found: Found, coarse: Tensor | None, ids: Tensor) -> None:
        """Sift the distances of every pixel to every pixel of the loaded maps; `ids` are int64 [maps * cells].

        There is no coarse level: `coarse` is None.
        """
        gallery = self._gallery[: self.maps * self.cells].T
        columns = gallery.shape[1]
        for first in range(0, self.cells, self._height):
            q = query.rows[0][first : first + self._height]
            rows = torch.arange(first, first + len(q), device=q.device)
            distances = self._distances[: len(q) * padded(columns)].view(len(q), -1)
            into = distances[:, :columns]
            distances[:, columns:] = math.inf
            if q.dtype == torch.float32:
                torch.mm(q, gallery, out=into)
            else:
                into.copy_(torch.mm(q, gallery, out=self._products[: len(q) * columns].view(len(q), columns)))
            found.sift(rows, distances, ids)
        found.settle()
