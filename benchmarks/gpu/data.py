"""What benchmarks/gpu.sh works on: features of two sizes, and the clocks they are timed by.

Maps are normal random numbers, which cost a GPU as much power as any. A query is one of its neighbours' maps and noise,
so that each pixel has one nearest by far, and a wrong one shows.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from spade_index.kernels.fused.maps import FusedMaps
from spade_index.kernels.pyramid import Size

Found = tuple[Tensor, Tensor]  # squared distances float32 [B, P, k], matches int64 [B, P, k]
Call = Callable[[Any], Found]
Prepared = tuple[Call, list[Any], dict[str, Any]]
"""A search, what it is to be called with for each batch, and notes on it."""

NOISE = 0.5  # of a query, in deviations of a feature


@dataclass(frozen=True)
class Scale:
    """How much is done."""

    sizes: tuple[Size, ...]
    channels: tuple[int, ...]
    slots: int  # maps that are resident
    cells: tuple[tuple[int, int], ...]  # (K, batch) of the benchmark, the first first
    few: int  # K of the checks
    repeats: int  # of the same search, for races
    random_cases: int  # of a task
    random_tasks: int
    sample: int  # query pixels that are compared with exact distances
    seconds: float  # that a contender is timed for
    large_slots: int  # of a pool with more values than int32 counts
    gemm: int
    copy_bytes: int
    images: int  # of the gallery of whole queries

    @property
    def pixels(self) -> int:
        """P."""
        return math.prod(self.sizes[0])

    def flop(self, neighbours: int) -> int:
        """Of one query's products in the decomposed form."""
        return 2 * neighbours * sum((h * w) ** 2 * c for (h, w), c in zip(self.sizes, self.channels, strict=True))


FULL = Scale(
    sizes=((56, 56), (28, 28), (14, 14)),
    channels=(256, 512, 1024),
    slots=1000,
    cells=((50, 1), (50, 8), (50, 32), (10, 1), (200, 1), (10, 8), (200, 8), (10, 32), (200, 32)),
    few=4,
    repeats=20,
    random_cases=25,
    random_tasks=4,
    sample=64,
    seconds=0.25,
    large_slots=2800,
    gemm=8192,
    copy_bytes=1 << 30,
    images=128,
)
SMOKE = Scale(
    sizes=((2, 1), (1, 1)),
    channels=(16, 24),
    slots=4,
    cells=((2, 1), (3, 2)),
    few=2,
    repeats=2,
    random_cases=1,
    random_tasks=1,
    sample=8,
    seconds=0.0,
    large_slots=3,
    gemm=64,
    copy_bytes=1 << 16,
    images=4,
)


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
        """Where the maps are."""
        return self.pool[0].device

    @property
    def weights(self) -> list[float]:
        """Of levels, all 1."""
        return [1.0] * len(self.pool)

    def batches(self, neighbours: int, batch: int, count: int, seed: int = 0) -> list[Inputs]:
        """Different batches, to take in turn, so that no cache knows the next one."""
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
    """The maps of a scale, made once."""
    generator = torch.Generator(device).manual_seed(0)
    half = torch.float16
    pool = [
        torch.randn(scale.slots, h * w, c, generator=generator, device=device, dtype=half)
        for (h, w), c in zip(scale.sizes, scale.channels, strict=True)
    ]
    return Workload(scale, pool)


@cache
def fused_maps(scale: Scale, device: torch.device) -> FusedMaps:
    """The same maps in the fused kernels' layout."""
    return fuse(workload(scale, device).pool, scale.sizes)


def fuse(pool: Sequence[Tensor], sizes: Sequence[Size], step: int = 50) -> FusedMaps:
    """Maps in the fused kernels' layout, a few at a time."""
    device, slots = pool[0].device, len(pool[0])
    maps = FusedMaps.empty(slots, sizes, [level.shape[2] for level in pool], pool[0].dtype, device)
    for some in torch.arange(slots, device=device).split(step):
        maps.write(some, [level[some] for level in pool])
    return maps


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def poisoned(device: torch.device) -> Iterator[None]:
    """With NaN in all memory that is given out and not written to."""
    before = torch.are_deterministic_algorithms_enabled()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        values = [torch.full((1 << 18,), math.nan, device=device) for _ in range(64)]  # 1 MiB: the pool of small ones
        values.append(torch.full((1 << 28,), math.nan, device=device))
        torch.cuda.synchronize(device)
        del values
    torch.use_deterministic_algorithms(True, warn_only=True)  # torch fills what it gives out
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def milliseconds(run: Callable[[Any], Any], inputs: Sequence[Any], device: torch.device, seconds: float) -> list[float]:
    """Of each call, for about so long; inputs are taken in turn. The first call is to be done before."""
    calls = 1
    if seconds:
        synchronize(device)
        started = time.perf_counter()
        run(inputs[0])
        synchronize(device)
        once = time.perf_counter() - started
        calls = max(3 if once < 0.5 else 1, min(200, int(seconds / max(1e-6, once))))
    if device.type != "cuda":
        times = []
        for call in range(calls):
            started = time.perf_counter()
            run(inputs[call % len(inputs)])
            times.append(1e3 * (time.perf_counter() - started))
        return times
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(calls)]
    for call, (before, after) in enumerate(events):
        before.record()
        run(inputs[call % len(inputs)])
        after.record()
    torch.cuda.synchronize(device)
    return [before.elapsed_time(after) for before, after in events]


failed_captures = 0  # of CUDA graphs: torch's allocator may not recover from one


def graphs(run: Callable[[Any], Any], inputs: Sequence[Any]) -> list[tuple[torch.cuda.CUDAGraph, Any]]:
    """A CUDA graph of a call for each of the inputs, and what it returns. Raises what the capture raises."""
    global failed_captures
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run(inputs[0])
    torch.cuda.current_stream().wait_stream(stream)
    captured = []
    try:
        for one in inputs:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                found = run(one)
            captured.append((graph, found))
    except Exception:
        failed_captures += 1
        raise
    return captured


def spread_of(times: Sequence[float]) -> dict[str, float]:
    """The median of times, the least and the most, in milliseconds."""
    return {"ms": statistics.median(times), "ms_min": min(times), "ms_max": max(times)}
