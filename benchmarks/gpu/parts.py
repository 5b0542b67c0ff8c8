"""Measure single kernels and their tiles, and what the GPU can do at most."""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from spade_index.benchmarks.gpu.peers import CONTENDERS, backend_module
from spade_index.benchmarks.gpu.runner import Missing, Row, Wrong, one_line
from spade_index.benchmarks.gpu.timing import graphs, median_ms, milliseconds, spread_of
from spade_index.benchmarks.gpu.workload import Scale, fused_maps, workload
from spade_index.kernels.fused.geometry import raster_layout
from spade_index.kernels.fused.search import search, search_maps

KERNELS = {"triton": "TritonKernels", "cupy": "CupyKernels"}
STEPS = ("coarse_distances", "block_minima", "rescan", "differences")
TILES: dict[tuple[str, str], tuple[tuple[int, ...], ...]] = {
    # rows, columns, channels, warps, stages; the first of each are the defaults
    ("triton", "block_minima"): (
        *((128, 64, 256, 8, 2), (128, 64, 256, 4, 2), (64, 128, 256, 4, 2), (128, 64, 256, 8, 3)),
        *((128, 128, 256, 8, 1), (256, 64, 256, 8, 1), (64, 64, 256, 4, 2), (128, 64, 256, 4, 3)),
        *((128, 128, 64, 8, 4), (128, 256, 64, 8, 3)),  # the query's channels in parts, too
    ),
    ("triton", "coarse_distances"): (
        *((128, 64, 64, 8, 4), (128, 128, 64, 8, 3), (128, 64, 64, 4, 4), (64, 64, 64, 4, 4), (64, 128, 64, 4, 4)),
    ),
    # warps, channels, stages
    ("cupy", "block_minima"): ((8, 64, 3), (4, 64, 3), (8, 32, 4), (8, 64, 2), (4, 128, 2)),
    ("cupy", "coarse_distances"): ((4, 32, 4), (4, 64, 3), (8, 32, 4)),
}
SMALL = {"triton": (16, 16, 16, 4, 2), "cupy": (8, 64, 3)}  # for the interpreter


class Recorder:
    """A backend's kernels that record each call."""

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


def recorded(make: Callable[..., Any], scale: Scale, neighbours: int, device: torch.device) -> Recorder:
    """Return a search's calls of its kernels."""
    maps, work = fused_maps(scale, device), workload(scale, device)
    (one,) = work.batches(neighbours, 1, 1)
    recorder: Any = Recorder(make(torch.float16, raster_layout(scale.sizes).cells))
    sizes, weights = scale.sizes, work.options["weights"]
    search_maps(recorder, one.query, maps, one.pages, 1, sizes=sizes, weights=weights)
    found: Recorder = recorder
    return found


def make_kernels(backend: str, step: str = "", tiles: tuple[int, ...] = ()) -> Callable[..., Any]:
    """Return a fused backend's class of kernels, with tiles of a step if given. Raises Missing."""
    module = backend_module(backend)
    make: Callable[..., Any] = getattr(module, KERNELS[backend])
    cut = {"block_minima": "minima", "coarse_distances": "coarse"}
    return partial(make, **{cut[step]: module.Tiles(*tiles)}) if step else make


def time_steps(backend: str, scale: Scale, neighbours: int, device: torch.device) -> Row:
    """Time each kernel of a search alone, with its own arguments."""
    recorder = recorded(make_kernels(backend), scale, neighbours, device)
    steps = []
    for step, arguments, _ in recorder.calls:
        run, level = getattr(recorder.kernels, step), arguments[1] if isinstance(arguments[1], int) else 0
        ms = median_ms(partial(_call, run), [arguments], device, scale.seconds / 5)
        flop = scale.flop(neighbours, [level]) if step in STEPS[:2] else 0
        steps.append({"step": step, "level": level, "ms": ms, "tflops": flop / ms / 1e9})
    return {"neighbours": neighbours, "steps": steps, "ms": sum(step["ms"] for step in steps)}


def _call(run: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return run(*arguments)


def profile_search(backend: str, scale: Scale, neighbours: int, device: torch.device) -> Row:
    """Ask torch's profiler where a GPU's time goes in a search: milliseconds of one search."""
    if device.type != "cuda":
        raise Missing("torch's profiler is asked about a GPU only")
    work, runs = workload(scale, device), 20
    call, given, _ = CONTENDERS[backend].prepare(work, work.batches(neighbours, 1, 4))
    for one in given:
        call(one)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for number in range(runs):
            call(given[number % len(given)])
        torch.cuda.synchronize()
    times: dict[str, float] = defaultdict(float)
    events = [event for event in profile.key_averages() if event.device_time_total]
    for event in events:
        times[event.key[:90]] += event.device_time_total / 1e3 / runs
    most = dict(sorted(times.items(), key=lambda item: -item[1])[:15])
    return {"ms": sum(times.values()), "launches": sum(event.count for event in events) / runs, "kernels": most}


def compile_tiles(
    backend: str, step: str, tiles: tuple[int, ...], scale: Scale, neighbours: int, device: torch.device
) -> Row:
    """Search with some tiles, so that compilers find their work done when they are timed."""
    recorded(make_kernels(backend, step, tiles), scale, neighbours, device)
    return {}


def compile_contender(key: str, scale: Scale, neighbours: int, device: torch.device) -> Row:
    """Search with a contender, for the same reason."""
    work = workload(scale, device)
    call, given, _ = CONTENDERS[key].prepare(work, work.batches(min(neighbours, scale.slots), 1, 1))
    call(given[0])
    return {}


def time_tiles(
    backend: str, step: str, tiles: tuple[int, ...], scale: Scale, neighbours: int, device: torch.device
) -> Row:
    """Compare a kernel with some tiles with the default's result; time it, and the whole search with it."""
    expected = _least_of_maps(recorded(make_kernels(backend), scale, neighbours, device))
    other = make_kernels(backend, step, tiles)
    recorder = recorded(other, scale, neighbours, device)
    worst = float(((_least_of_maps(recorder) - expected).abs() / (1e-3 * expected.abs() + 1e-2)).max())
    if not worst <= 1:
        raise Wrong(f"minima are {worst:.3g} times as far off as is allowed")
    run = getattr(recorder.kernels, step)
    calls = [arguments for name, arguments, _ in recorder.calls if name == step]
    ms = sum(median_ms(partial(_call, run), [one], device, scale.seconds / 3) for one in calls)
    flop = scale.flop(neighbours, range(1, len(scale.sizes)) if step == "coarse_distances" else [0])
    row = {"tiles": list(tiles), "ms": ms, "tflops": flop / ms / 1e9}
    try:
        return row | {"search_ms": _search_ms(other, scale, neighbours, device)}
    except Exception as error:  # a graph that cannot be captured
        return row | {"search_ms_missing": one_line(error)}


def _search_ms(make: Callable[..., Any], scale: Scale, neighbours: int, device: torch.device) -> float:
    """Time a whole search; on a GPU by a CUDA graph of it."""
    maps, work = fused_maps(scale, device), workload(scale, device)
    (one,) = work.batches(neighbours, 1, 1)
    run = partial(search, make, one.query, maps, one.pages, 1, **work.options)
    run()
    if device.type != "cuda":
        return median_ms(lambda _: run(), [None], device, 0)
    ((graph, _),) = graphs(lambda _: run(), [None])
    return median_ms(lambda _: graph.replay(), [None], device, scale.seconds / 2)


def _least_of_maps(recorder: Recorder) -> Tensor:
    """Return the least of the minima in each map for each pixel: [B, P, K]."""
    ((_, (launch, *_), minima),) = [call for call in recorder.calls if call[0] == "block_minima"]
    least: Tensor = minima.unflatten(2, (launch.positions, -1)).amin(3)
    return least[:, launch.geometry.query_row.long()]


def matmul(shape: tuple[int, int, int], dtype: torch.dtype, scale: Scale, device: torch.device) -> Row:
    """Time torch's product [rows, inner] by [inner, columns] of random numbers, into an existing buffer."""
    rows, inner, columns = shape
    a, b = (torch.randn(n, inner, device=device).to(dtype) for n in (rows, columns))
    out = torch.mm(a, b.T)
    times = milliseconds(lambda _: torch.mm(a, b.T, out=out), [None], device, 2 * scale.seconds)
    row: Row = {"shape": list(shape), "dtype": str(dtype).removeprefix("torch."), **spread_of(times)}
    return row | {"tflops": 2 * rows * inner * columns / row["ms"] / 1e9}


def copy(kind: str, scale: Scale, device: torch.device) -> Row:
    """Time copies: on the device (bytes read and written), or to it from pinned or pageable memory."""
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
