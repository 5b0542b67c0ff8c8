"""What benchmarks/gpu.sh measures besides whole searches: tiles, each kernel, what the GPU can do at most."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from spade_index.benchmarks.gpu import peers as gpu_peers
from spade_index.benchmarks.gpu.data import Scale, fused_maps, graphs, milliseconds, spread_of, workload
from spade_index.benchmarks.gpu.runner import Missing, Wrong, one_line
from spade_index.kernels.fused import search as fused
from spade_index.kernels.fused.geometry import raster_layout

KERNELS = {"triton": "TritonKernels", "cupy": "CupyKernels"}
TILES = (  # the first of each are those that the others are compared with
    (
        "triton",  # rows, columns, channels, warps, stages
        "block_minima",
        (
            *((128, 64, 256, 8, 2), (128, 64, 256, 4, 2), (64, 128, 256, 4, 2), (128, 64, 256, 8, 3)),
            *((128, 128, 256, 8, 1), (256, 64, 256, 8, 1), (64, 64, 256, 4, 2), (128, 64, 256, 4, 3)),
            *((128, 128, 64, 8, 4), (128, 256, 64, 8, 3)),  # the query's channels in parts, too
        ),
    ),
    (
        "triton",
        "coarse_distances",
        ((128, 64, 64, 8, 4), (128, 128, 64, 8, 3), (128, 64, 64, 4, 4), (64, 64, 64, 4, 4), (64, 128, 64, 4, 4)),
    ),
    ("cupy", "block_minima", ((8, 64, 3), (4, 64, 3), (8, 32, 4), (8, 64, 2), (4, 128, 2))),  # warps, channels, stages
    ("cupy", "coarse_distances", ((4, 32, 4), (4, 64, 3), (8, 32, 4))),
)
SMALL: dict[str, tuple[tuple[int, ...], ...]] = {
    "triton": ((16, 16, 16, 4, 2),),  # in the interpreter
    "cupy": ((8, 64, 3),),
}
STEPS = ("coarse_distances", "block_minima", "rescan", "differences")


class Recorder:
    """Stands for a backend's kernels, and keeps what each is called with."""

    def __init__(self, kernels: Any) -> None:
        self.kernels = kernels
        self.calls: list[tuple[str, tuple[Any, ...], Any]] = []  # name, arguments, result

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.kernels, name)
        if name not in STEPS:
            return value

        def call(*arguments: Any) -> Any:
            result = value(*arguments)
            self.calls.append((name, arguments, result))
            return result

        return call


def recorded(make: Callable[..., Any], scale: Scale, neighbours: int, batch: int, device: torch.device) -> Recorder:
    """A search's calls of its kernels."""
    maps, (one,) = fused_maps(scale, device), workload(scale, device).batches(neighbours, batch, 1)
    recorder = Recorder(make(torch.float16, raster_layout(scale.sizes).cells))
    sizes = list(scale.sizes)
    fused.search_maps(recorder, one.query, maps, one.pages, 1, sizes=sizes, weights=[1.0] * len(sizes))
    return recorder


def make_kernels(name: str) -> Callable[..., Any]:
    """What makes a fused backend's kernels. Raises Missing."""
    make: Callable[..., Any] = getattr(gpu_peers.backend_module(name), KERNELS[name])
    return make


def time_steps(name: str, scale: Scale, neighbours: int, device: torch.device) -> dict[str, Any]:
    """Each kernel of a search alone, again and again, with what it was given."""
    recorder = recorded(make_kernels(name), scale, neighbours, 1, device)
    row: dict[str, Any] = {"neighbours": neighbours, "steps": []}
    for step, arguments, _ in recorder.calls:
        times = milliseconds(lambda call: call[0](*call[1]), [(getattr(recorder.kernels, step), arguments)],
                             device, scale.seconds / 5)  # fmt: skip
        level = arguments[1] if isinstance(arguments[1], int) else 0
        flop = 0
        if step in ("coarse_distances", "block_minima"):
            (h, w), channels = scale.sizes[level], scale.channels[level]
            flop = 2 * neighbours * (h * w) ** 2 * channels
        ms = statistics.median(times)
        row["steps"].append({"step": step, "level": level, "ms": ms, "tflops": flop / ms / 1e9})
    row["ms"] = sum(step["ms"] for step in row["steps"])
    return row


def profile_search(name: str, scale: Scale, neighbours: int, device: torch.device) -> dict[str, Any]:
    """Where a GPU's time goes in a whole search, as torch's profiler sees it: milliseconds of one search."""
    if device.type != "cuda":
        raise Missing("torch's profiler is asked about a GPU only")
    work = workload(scale, device)
    call, given, _ = gpu_peers.CONTENDERS[name].prepare(work, work.batches(neighbours, 1, 4))
    for one in given:
        call(one)
    torch.cuda.synchronize()
    runs = 20
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for number in range(runs):
            call(given[number % len(given)])
        torch.cuda.synchronize()
    times: dict[str, float] = defaultdict(float)
    launches = 0
    for event in profile.key_averages():
        if event.device_time_total:
            times[event.key[:90]] += event.device_time_total / 1e3 / runs
            launches += event.count
    most = sorted(times.items(), key=lambda item: -item[1])[:15]
    return {"ms": sum(times.values()), "launches": launches / runs, "kernels": dict(most)}


def compile_tiles(
    backend: str, step: str, tiles: tuple[int, ...], scale: Scale, neighbours: int, device: torch.device
) -> dict[str, Any]:
    """Search with such tiles, so that compilers find their work done when it is timed."""
    recorded(_with_tiles(backend, step, tiles), scale, neighbours, 1, device)
    return {}


def compile_contender(key: str, scale: Scale, neighbours: int, device: torch.device) -> dict[str, Any]:
    """Likewise, a contender."""
    work = workload(scale, device)
    call, given, _ = gpu_peers.CONTENDERS[key].prepare(work, work.batches(min(neighbours, scale.slots), 1, 1))
    call(given[0])
    return {}


def _with_tiles(backend: str, step: str, tiles: tuple[int, ...]) -> Callable[..., Any]:
    which = {"block_minima": "minima", "coarse_distances": "coarse"}[step]
    return partial(make_kernels(backend), **{which: gpu_peers.backend_module(backend).Tiles(*tiles)})


def time_tiles(
    backend: str, step: str, tiles: tuple[int, ...], scale: Scale, neighbours: int, device: torch.device
) -> dict[str, Any]:
    """A kernel with such tiles, compared with the default's, and the whole search with them."""
    expected = _least_of_maps(recorded(make_kernels(backend), scale, neighbours, 1, device))
    other = _with_tiles(backend, step, tiles)
    recorder = recorded(other, scale, neighbours, 1, device)
    _require_close(_least_of_maps(recorder), expected)
    run = getattr(recorder.kernels, step)
    calls = [arguments for name, arguments, _ in recorder.calls if name == step]
    times = [statistics.median(milliseconds(lambda a: run(*a), [one], device, scale.seconds / 3)) for one in calls]
    levels = range(1, len(scale.sizes)) if step == "coarse_distances" else [0]
    flop = 2 * neighbours * sum(math.prod(scale.sizes[level]) ** 2 * scale.channels[level] for level in levels)
    row = {"tiles": list(tiles), "ms": sum(times), "tflops": flop / sum(times) / 1e9}
    try:
        return row | {"search_ms": _search_ms(other, scale, neighbours, device)}
    except Exception as error:  # a graph that cannot be captured
        return row | {"search_ms_missing": one_line(error)}


def _search_ms(make: Callable[..., Any], scale: Scale, neighbours: int, device: torch.device) -> float:
    """Of a whole search; on a GPU by a CUDA graph of it."""
    maps, (one,) = fused_maps(scale, device), workload(scale, device).batches(neighbours, 1, 1)
    options = {"sizes": list(scale.sizes), "weights": [1.0] * len(scale.sizes), "mode": "concat-nearest"}
    run = partial(fused.search, make, one.query, maps, one.pages, 1, **options)
    run()
    if device.type == "cuda":
        ((graph, _),) = graphs(lambda _: run(), [None])
        return statistics.median(milliseconds(lambda _: graph.replay(), [None], device, scale.seconds / 2))
    return statistics.median(milliseconds(lambda _: run(), [None], device, 0))


def _least_of_maps(recorder: Recorder) -> Tensor:
    """The least of what `block_minima` found in each map for each pixel: [B, P, K]."""
    ((_, arguments, minima),) = [call for call in recorder.calls if call[0] == "block_minima"]
    launch = arguments[0]
    least: Tensor = minima.unflatten(2, (launch.positions, -1)).amin(3)
    return least[:, launch.geometry.query_row.long()]


def _require_close(found: Tensor, expected: Tensor) -> None:
    worst = float(((found - expected).abs() / (1e-3 * expected.abs() + 1e-2)).max())
    if not worst <= 1:
        raise Wrong(f"minima are {worst:.3g} times as far off as is allowed")


def matmul(
    rows: int, inner: int, columns: int, dtype: torch.dtype, scale: Scale, device: torch.device
) -> dict[str, Any]:
    """A product of torch's, of random numbers, into a buffer that is there."""
    a, b = (torch.randn(shape, device=device).to(dtype) for shape in ((rows, inner), (columns, inner)))
    out = torch.empty(rows, columns, device=device, dtype=dtype)
    torch.mm(a, b.T, out=out)
    times = milliseconds(lambda _: torch.mm(a, b.T, out=out), [None], device, 2 * scale.seconds)
    row = {"shape": [rows, inner, columns], "dtype": str(dtype).removeprefix("torch."), **spread_of(times)}
    return row | {"tflops": 2 * rows * inner * columns / row["ms"] / 1e9}


def copy(kind: str, scale: Scale, device: torch.device) -> dict[str, Any]:
    """GB/s of copies: on the device (bytes read and written), or to it from pinned or pageable memory."""
    count, on_gpu = scale.copy_bytes, device.type == "cuda"
    there = torch.empty(count, dtype=torch.uint8, device=device)
    if kind == "device":
        here = torch.randint(0, 255, (count,), dtype=torch.uint8, device=device)
    else:
        here = torch.ones(count, dtype=torch.uint8, pin_memory=on_gpu and kind == "pinned")
    there.copy_(here)
    times = milliseconds(lambda _: there.copy_(here, non_blocking=True), [None], device, 2 * scale.seconds)
    row = {"bytes": count, **spread_of(times)}
    return row | {"gb_per_s": count * (2 if kind == "device" else 1) / row["ms"] / 1e6}


def few(scale: Scale, slots: int) -> Scale:
    """The same with fewer maps."""
    return replace(scale, slots=min(scale.slots, slots))
