"""Clocks for GPUs and CPUs, CUDA graphs, and poisoned memory."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

failed_captures = 0  # of CUDA graphs: torch's allocator may not recover from one


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def poisoned(device: torch.device) -> Iterator[None]:
    """Fill all memory that torch allocates with NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        values = [torch.full((1 << 18,), math.nan, device=device) for _ in range(64)]  # 1 MiB: the pool of small ones
        values.append(torch.full((1 << 28,), math.nan, device=device))
        torch.cuda.synchronize(device)
        del values
    torch.use_deterministic_algorithms(True, warn_only=True)  # which fills uninitialised memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def milliseconds(run: Callable[[Any], Any], inputs: Sequence[Any], device: torch.device, seconds: float) -> list[float]:
    """Return the time of each call, for about `seconds`; inputs are taken in turn. The caller warms up."""
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


def median_ms(run: Callable[[Any], Any], inputs: Sequence[Any], device: torch.device, seconds: float) -> float:
    """Return the median of `milliseconds`."""
    return statistics.median(milliseconds(run, inputs, device, seconds))


def graphs(run: Callable[[Any], Any], inputs: Sequence[Any]) -> list[tuple[torch.cuda.CUDAGraph, Any]]:
    """Capture a CUDA graph of a call for each of the inputs; return each with its result. Raises capture errors."""
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
