"""The features that the GPU benchmark searches, at two scales.

Maps are normal random numbers, which cost a GPU as much power as any. A query is one of its neighbours' maps plus
noise, so that each pixel has one nearest pixel by far, and a wrong one shows.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from spade_index.kernels.fused.maps import FusedMaps
from spade_index.kernels.fused.search import check_matches
from spade_index.kernels.pyramid import Size

Found = tuple[Tensor, Tensor]  # squared distances float32 [B, P, k], matches int64 [B, P, k]
Call = Callable[[Any], Found]
Prepared = tuple[Call, list[Any], dict[str, Any]]
"""A search, its argument for each batch, and notes on it."""

MODE = "concat-nearest"
NOISE = 0.5  # of a query, in standard deviations of a feature


@dataclass(frozen=True)
class Scale:
    """The amount of work. Raises ValueError for cells of more matches than the kernels count."""

    sizes: tuple[Size, ...]
    channels: tuple[int, ...]
    slots: int  # resident maps
    cells: tuple[tuple[int, int], ...]  # (K, batch) of the benchmark, the main one first
    few: int  # K of the checks
    repeats: int  # runs of the same search, to find races
    random_cases: int  # of a task
    random_tasks: int
    sample: int  # query pixels that are compared with exact distances
    seconds: float  # for which a contender is timed
    large_slots: int  # of a pool with more values than int32 counts
    gemm: int

    def __post_init__(self) -> None:
        for neighbours, _ in self.cells:
            check_matches(neighbours, self.pixels)

    @property
    def pixels(self) -> int:
        """The number of finest pixels, P."""
        return math.prod(self.sizes[0])

    def flop(self, neighbours: int, levels: Sequence[int] = (0, 1, 2)) -> int:
        """Return the operations of one query's products in the decomposed form, of some levels."""
        shapes = [(*size, c) for size, c in zip(self.sizes, self.channels, strict=True)]
        return 2 * neighbours * sum((h * w) ** 2 * c for h, w, c in (shapes[i] for i in levels if i < len(shapes)))


FULL = Scale(
    sizes=((56, 56), (28, 28), (14, 14)), channels=(256, 512, 1024), slots=1000,
    cells=((50, 1), (50, 8), (50, 32), (10, 1), (200, 1), (10, 8), (200, 8), (10, 32), (200, 32)),
    few=4, repeats=20, random_cases=25, random_tasks=4, sample=64, seconds=0.25, large_slots=2800, gemm=8192,
)  # fmt: skip
SMOKE = Scale(
    sizes=((2, 1), (1, 1)), channels=(16, 24), slots=4, cells=((2, 1), (3, 2)), few=2, repeats=2, random_cases=1,
    random_tasks=1, sample=8, seconds=0.0, large_slots=3, gemm=64,
)  # fmt: skip


def replace_slots(scale: Scale, slots: int) -> Scale:
    """Return the same scale with at most `slots` resident maps."""
    return replace(scale, slots=min(scale.slots, slots))


@dataclass(frozen=True)
class Inputs:
    """One batch of queries."""

    query: list[Tensor]  # levels [B, H*W, C], float32
    pages: Tensor  # int64 [B, K]


@dataclass(frozen=True)
class Workload:
    """Resident maps of a scale, on a device."""

    scale: Scale
    pool: list[Tensor]  # levels [slots, H*W, C], float16

    @property
    def device(self) -> torch.device:
        """The maps' device."""
        return self.pool[0].device

    @property
    def options(self) -> dict[str, Any]:
        """The options of a search by a backend's own function."""
        return {"sizes": list(self.scale.sizes), "weights": [1.0] * len(self.pool), "mode": MODE}

    def batches(self, neighbours: int, batch: int, count: int, seed: int = 0) -> list[Inputs]:
        """Return different batches, to be searched in turn so that no cache holds the next one."""
        pick = torch.Generator().manual_seed(1000 * neighbours + batch + seed)
        noise = torch.Generator(self.device).manual_seed(seed)
        made = []
        for _ in range(count):
            rows = [torch.randperm(self.scale.slots, generator=pick)[:neighbours] for _ in range(batch)]
            pages = torch.stack(rows).to(self.device)
            query = [level[pages[:, neighbours // 2]].float() for level in self.pool]
            for level in query:
                level += NOISE * torch.randn(level.shape, generator=noise, device=self.device)
            made.append(Inputs(query, pages))
        return made


@cache
def workload(scale: Scale, device: torch.device) -> Workload:
    """Return the maps of a scale, made once."""
    generator = torch.Generator(device).manual_seed(0)
    shapes = [(h * w, c) for (h, w), c in zip(scale.sizes, scale.channels, strict=True)]
    options: dict[str, Any] = {"generator": generator, "device": device, "dtype": torch.float16}
    return Workload(scale, [torch.randn(scale.slots, n, c, **options) for n, c in shapes])


@cache
def fused_maps(scale: Scale, device: torch.device) -> FusedMaps:
    """Return the same maps in the fused kernels' layout."""
    return fuse(workload(scale, device).pool, scale.sizes)


def fuse(pool: Sequence[Tensor], sizes: Sequence[Size], step: int = 50) -> FusedMaps:
    """Copy maps into the fused kernels' layout, `step` at a time."""
    device, slots = pool[0].device, len(pool[0])
    maps = FusedMaps.empty(slots, sizes, [level.shape[2] for level in pool], pool[0].dtype, device)
    for some in torch.arange(slots, device=device).split(step):
        maps.write(some, [level[some] for level in pool])
    return maps
