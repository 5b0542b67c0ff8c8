"""A pool and a query, as the compiled functions take them: see nearest.h."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..pyramid import Size
from . import library as c
from .cells import cells_of

FLOAT32 = torch.finfo(torch.float32)
DEPTH = 32  # channels of a tile
TYPES = {torch.float16: 0, torch.float32: 1, torch.bfloat16: 2}
ROOM = 32  # candidates, per row and each of the k nearest, that a thread keeps of a query
CANDIDATE_BYTES = 16


class Plan:
    """A pool, as the compiled functions take it."""

    def __init__(
        self, pool: list[Tensor], sizes: Sequence[Size], weights: Sequence[float], k: int, window: int | None = None
    ) -> None:
        self.pool, self.k = pool, k
        self.layout = cells_of(tuple(sizes))
        self.pixels = pool[0].shape[1]
        self.rows = self.layout.planes * self.layout.cells  # of level 0
        # Any centre is correct; that of the first map is near those of the others.
        self.centres = [level[:1].float().mean((0, 1)).nan_to_num(0.0, 0.0, 0.0) for level in pool]
        self.factors = [weight**0.5 for weight in weights]
        self.steps = [-(-level.shape[2] // DEPTH) for level in pool]
        channels = sum(level.shape[2] for level in pool)
        self.c = c.Plan(
            levels=len(pool),
            type=TYPES[pool[0].dtype],
            planes=self.layout.planes,
            cells=self.layout.cells,
            pixels=self.pixels,
            k=k,
            tolerance=4 * FLOAT32.eps * math.sqrt(channels),
            tiny=4 * FLOAT32.tiny * channels,
        )
        for number, level in enumerate(pool):
            places, (height, width) = self.layout.places[number], sizes[number]
            self.c.level[number] = c.Level(
                pixels=level.shape[1],
                channels=level.shape[2],
                steps=self.steps[number],
                rows=len(self.layout.orders[number]),
                pool=level.data_ptr(),
                order=self.layout.orders[number].data_ptr(),
                places=None if places is None else places.data_ptr(),
                height=height,
                width=width,
                reach=0 if window is None else _reach(sizes[number], sizes[0], window),
                centre=self.centres[number].data_ptr(),
                factor=self.factors[number],
                weight=weights[number],
            )

    def workspace_bytes(self, instructions: int) -> int:
        """Return the bytes that a thread needs."""
        return int(c.library().spade_workspace(instructions, self.c))

    def query_bytes(self, threads: int) -> int:
        """Return the bytes that a query and its candidates take."""
        tiles = sum(2 * len(order) * steps * DEPTH for order, steps in zip(self.layout.orders, self.steps, strict=True))
        return tiles + self.rows * (16 + threads * (8 + 4 * self.k + CANDIDATE_BYTES * ROOM * self.k))


def _reach(size: Size, finest: Size, window: int) -> int:
    """Return how many rows or columns of a level lie between the cells under two finest ones of a window, at most."""
    return max(-(-min(window, n - 1) * cells // n) for cells, n in zip(size, finest, strict=True))


class Query:
    """A query, as the compiled functions take it; `spade_prepare` fills all but its features."""

    def __init__(self, plan: Plan, levels: Sequence[Tensor]) -> None:
        self.features = [level.float().contiguous() for level in levels]
        self.tiles = [
            torch.empty(len(order) * steps * DEPTH, dtype=torch.bfloat16)
            for order, steps in zip(plan.layout.orders, plan.steps, strict=True)
        ]
        self.norms = [torch.empty(len(order)) for order in plan.layout.orders]
        self.moved, self.total = torch.empty(plan.rows), torch.empty(plan.rows)
        self.c = c.Query(moved=self.moved.data_ptr(), total=self.total.data_ptr())
        for name in ("features", "tiles", "norms"):
            for number, level in enumerate(getattr(self, name)):
                getattr(self.c, name)[number] = level.data_ptr()
