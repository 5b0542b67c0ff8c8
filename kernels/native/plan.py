"""A pool and a query, as the compiled functions take them: see nearest.h."""

import math
from collections.abc import Sequence
from ctypes import c_void_p

import torch
from torch import Tensor

from ..codes import CodedMaps
from ..pyramid import Size
from . import library as c
from .cells import cells_of
from .parts import Parts

FLOAT32 = torch.finfo(torch.float32)
DEPTH = 32  # channels of a tile
TYPES = {torch.float16: 0, torch.float32: 1, torch.bfloat16: 2}
ROOM = 32  # candidates, per row and each of the k nearest, that a thread keeps of a query
CANDIDATE_BYTES = 16


class Plan:
    """A pool, as the compiled functions take it."""

    def __init__(
        self,
        pool: list[Tensor] | CodedMaps,
        sizes: Sequence[Size],
        weights: Sequence[float],
        k: int,
        window: int | None = None,
        instructions: int = 0,
    ) -> None:
        self.pool, self.k = pool, k
        self.layout = cells_of(tuple(sizes))
        if isinstance(pool, CodedMaps):
            channels = pool.coding.preparation.channels
            kind = torch.float16
        else:
            channels, kind = [level.shape[2] for level in pool], pool[0].dtype
        self.pixels = math.prod(sizes[0])
        self.rows = self.layout.planes * self.layout.cells  # of level 0
        self.factors = [weight**0.5 for weight in weights]
        self.steps = [-(-of // DEPTH) for of in channels]
        self.c = c.Plan(
            levels=len(channels),
            type=TYPES[kind],
            planes=self.layout.planes,
            cells=self.layout.cells,
            pixels=self.pixels,
            k=k,
            tolerance=4 * FLOAT32.eps * math.sqrt(sum(channels)),
            tiny=4 * FLOAT32.tiny * sum(channels),
        )
        for number, (size, of) in enumerate(zip(sizes, channels, strict=True)):
            places = self.layout.places[number]
            self.c.level[number] = c.Level(
                pixels=math.prod(size),
                channels=of,
                steps=self.steps[number],
                rows=len(self.layout.orders[number]),
                order=self.layout.orders[number].data_ptr(),
                places=None if places is None else places.data_ptr(),
                height=size[0],
                width=size[1],
                reach=0 if window is None else _reach(size, sizes[0], window),
                factor=self.factors[number],
                weight=weights[number],
            )
        first = self._coded(pool, instructions) if isinstance(pool, CodedMaps) else self._values(pool)
        # Any centre is correct; that of the first map is near those of the others.
        self.centres = [level.float().mean((0, 1)).nan_to_num(0.0, 0.0, 0.0) for level in first]
        for number, centre in enumerate(self.centres):
            self.c.level[number].centre = centre.data_ptr()

    def _values(self, pool: list[Tensor]) -> list[Tensor]:
        """Take maps from a pool of values; return the first map, [1, P, C] of each level, if there is one."""
        for number, level in enumerate(pool):
            self.c.level[number].pool = level.data_ptr()
        return [level[:1] for level in pool]

    def _coded(self, pool: CodedMaps, instructions: int) -> list[Tensor]:
        """Take maps from a pool of codes; return the first map, [1, P, C] of each level, if there is one."""
        self.parts = Parts(pool.coding)
        self.parts.point([level.data_ptr() for level in pool.stored], [level.shape[1] for level in pool.stored])
        self.parts.put_into(self.c)
        levels = [self.c.level[number] for number in range(self.c.levels)]
        count = min(1, pool.slots)
        first = [torch.empty(count, level.pixels, level.channels, dtype=torch.float16) for level in levels]
        if not count:
            return first
        out = (c_void_p * len(first))(*(level.data_ptr() for level in first))
        room = torch.empty(self.workspace_bytes(instructions), dtype=torch.uint8)
        c.library().spade_decode_map(instructions, self.c, room.data_ptr(), 0, out)
        return first

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
