"""Measure single kernels, and what the GPU can do at most."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from spade_index.benchmarks.gpu.peers import backend_module
from spade_index.benchmarks.gpu.runner import Row
from spade_index.benchmarks.gpu.timing import median_ms, milliseconds
from spade_index.benchmarks.gpu.workload import Scale, fused_maps, workload
from spade_index.benchmarks.harness import spread
from spade_index.kernels.fused.geometry import raster_layout
from spade_index.kernels.fused.search import search_maps

KERNELS = {"triton": "TritonKernels", "cupy": "CupyKernels"}
STEPS = ("coarse_distances", "block_minima", "rescan", "differences")


class Recorder:
    """A backend's kernels that record each call."""

    def __init__(self, kernels: Any) -> None:
        self.kernels = kernels
        self.calls: list[tuple[str, tuple[Any, ...]]] = []  # name, arguments

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.kernels, name)
        if name not in STEPS:
            return value

        def call(*arguments: Any) -> Any:
            self.calls.append((name, arguments))
            return value(*arguments)

        return call


def recorded(make: Callable[..., Any], scale: Scale, neighbours: int, device: torch.device) -> Recorder:
    """Return a search's calls of its kernels."""
    maps, work = fused_maps(scale, device), workload(scale, device)
    (one,) = work.batches(neighbours, 1, 1)
    recorder: Any = Recorder(make(torch.float16, raster_layout(scale.sizes).cells))
    sizes, weights = scale.sizes, work.options["weights"]
    search_maps(recorder, one.query, maps, one.pages, 1, sizes=sizes, weights=weights)
    found: Recorder = recorder
    return found


def time_steps(backend: str, scale: Scale, neighbours: int, device: torch.device) -> Row:
    """Time each kernel of a search alone, with its own arguments."""
    recorder = recorded(getattr(backend_module(backend), KERNELS[backend]), scale, neighbours, device)
    steps = []
    for step, arguments in recorder.calls:
        run, level = getattr(recorder.kernels, step), arguments[1] if isinstance(arguments[1], int) else 0
        ms = median_ms(partial(_call, run), [arguments], device, scale.seconds / 5)
        flop = scale.flop(neighbours, [level]) if step in STEPS[:2] else 0
        steps.append({"step": step, "level": level, "ms": ms, "tflops": flop / ms / 1e9})
    return {"neighbours": neighbours, "steps": steps, "ms": sum(step["ms"] for step in steps)}


def _call(run: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return run(*arguments)


def matmul(shape: tuple[int, int, int], dtype: torch.dtype, scale: Scale, device: torch.device) -> Row:
    """Time torch's product [rows, inner] by [inner, columns] of random numbers, into an existing buffer."""
    rows, inner, columns = shape
    a, b = (torch.randn(n, inner, device=device).to(dtype) for n in (rows, columns))
    out = torch.mm(a, b.T)
    times = milliseconds(lambda _: torch.mm(a, b.T, out=out), [None], device, 2 * scale.seconds)
    row: Row = {"shape": list(shape), "dtype": str(dtype).removeprefix("torch."), **spread(times, "ms")}
    return row | {"tflops": 2 * rows * inner * columns / row["ms"] / 1e9}
