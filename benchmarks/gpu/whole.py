"""Time whole searches: contenders, each verified before it is timed, and the pool of resident maps."""

import statistics
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spade_index import kernels
from spade_index.benchmarks import pixel_checks, pixel_peers
from spade_index.benchmarks.gpu.peers import CONTENDERS, FUSED, backend_module
from spade_index.benchmarks.gpu.runner import Missing, Row, Wrong, one_line
from spade_index.benchmarks.gpu.timing import graphs, milliseconds, poisoned, spread_of, synchronize
from spade_index.benchmarks.gpu.workload import MODE, Found, Inputs, Scale, workload
from spade_index.kernels.fused.maps import FusedMaps

ROTATED = {1: 6, 8: 2}  # batches that take turns, by their size


@lru_cache(maxsize=1)  # of one cell of the benchmark at a time
def _cell(scale: Scale, neighbours: int, batch: int, device: torch.device) -> tuple[list[Inputs], list[Any]]:
    """Return batches, and exact distances of some pixels of the first and the last query of the first one."""
    work = workload(scale, device)
    batches = work.batches(neighbours, batch, ROTATED.get(batch, 1))
    rows = torch.randperm(scale.pixels, generator=torch.Generator().manual_seed(0))[: scale.sample].to(device)
    oracles = []
    for number in sorted({0, batch - 1}):
        query = [level[number : number + 1] for level in batches[0].query]
        pool = [level[batches[0].pages[number]] for level in work.pool]
        search = pixel_peers.Search(query, pool, scale.sizes, work.options["weights"], 1, MODE)
        oracles.append((number, pixel_checks.Oracle(search, rows)))
    return batches, oracles


def contend(key: str, scale: Scale, neighbours: int, batch: int, device: torch.device) -> Row:
    """Verify a contender's result, and then time it."""
    contender, work = CONTENDERS[key], workload(scale, device)
    batches, oracles = _cell(scale, neighbours, batch, device)
    row: Row = {"contender": key, "title": contender.title, "neighbours": neighbours, "batch": batch}
    row["queries_timed"] = len(batches) * batch
    call, given, notes = contender.prepare(work, batches)
    synchronize(device)
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    with poisoned(device):
        found = call(given[0])
    synchronize(device)
    row |= notes | _verified(found, oracles)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        del found
        found = call(given[0])
        row["working_mb"] = (torch.cuda.max_memory_allocated(device) - before) / 1e6
    row |= _figures(milliseconds(call, given, device, scale.seconds), scale, neighbours, batch)
    if device.type == "cuda" and contender.graph:
        row |= _by_graph(call, given[:3], found, scale, neighbours, batch, device)
    return row


def _verified(found: Found, oracles: Sequence[tuple[int, Any]]) -> dict[str, float]:
    """Return how far off the sampled pixels are. Raises Wrong."""
    checked = []
    for number, oracle in oracles:
        try:
            checked.append(oracle.check((found[0][number, oracle.rows], found[1][number, oracle.rows])))
        except pixel_checks.WrongResult as error:
            raise Wrong(f"query {number}: {error}") from error
    return {
        "distance_error": max(one["distance_error"] for one in checked),
        "exact_matches": min(one["exact_matches"] for one in checked),
    }


def _figures(times: Sequence[float], scale: Scale, neighbours: int, batch: int) -> dict[str, float]:
    of_query = {name: value / batch for name, value in spread_of(times).items()}
    return of_query | {"tflops": scale.flop(neighbours) / of_query["ms"] / 1e9, "calls": len(times)}


def _by_graph(
    call: Any, given: list[Any], found: Found, scale: Scale, neighbours: int, batch: int, device: torch.device
) -> Row:
    """Time the same by replaying CUDA graphs, which leaves out the time of launches."""
    try:
        captured = graphs(call, given)
        captured[0][0].replay()
        torch.cuda.synchronize(device)
        result = captured[0][1]
        if not torch.equal(result[1], found[1]) or not torch.equal(result[0], found[0]):
            return {"graph": "replayed, it gives another result"}
        times = milliseconds(lambda graph: graph.replay(), [graph for graph, _ in captured], device, scale.seconds)
    except Exception as error:  # calls that synchronize, or allocate by themselves, cannot be captured
        torch.cuda.synchronize(device)
        return {"graph": one_line(error)[:160]}
    figures = _figures(times, scale, neighbours, batch)
    return {"graph": "ok", "graph_ms": figures["ms"], "graph_tflops": figures["tflops"]}


def time_pool(case: str, scale: Scale, neighbours: int, device: torch.device) -> Row:
    """Time a pool's fetch and the search after it: with no map resident, all of them, or nine of ten.

    Maps are read from host memory, the least that a gallery in the operating system's cache costs.
    """
    name, work = next((name for name in FUSED if _runs(name)), "torch"), workload(scale, device)
    search = backend_module(name).nearest_pixels
    (one,) = work.batches(neighbours, 1, 1)
    keys = one.pages[0].tolist()
    others = (key % scale.slots for key in range(10**9) if key % scale.slots not in set(keys))
    pool = _pool(scale, 4 * neighbours, device, fused=name in FUSED)
    expected = search(one.query, pool.maps, pool.fetch([keys]), 1, **work.options)  # and compile
    times: dict[str, list[float]] = {"fetch_ms": [], "search_ms": []}
    for _ in range(5 if device.type == "cuda" else 1):
        if case != "warm":  # the query's own maps make room for others, and `new` of them come back
            new = neighbours if case == "cold" else max(1, neighbours // 10)
            pool = _pool(scale, 4 * neighbours, device, fused=name in FUSED)
            pool.fetch([keys[new:] or [next(others)]])
        synchronize(device)
        before, started = pool.stats.misses, time.perf_counter()
        pages = pool.fetch([keys])
        fetched = time.perf_counter()
        found = search(one.query, pool.maps, pages, 1, **work.options)
        synchronize(device)
        times["fetch_ms"].append(1e3 * (fetched - started))
        times["search_ms"].append(1e3 * (time.perf_counter() - fetched))
        missed = pool.stats.misses - before
        if not torch.equal(found[0], expected[0]) or not torch.equal(found[1], expected[1]):
            raise Wrong("the search of the pool gives another result")
    medians = {what: statistics.median(of) for what, of in times.items()}
    total = sum(medians.values())
    moved = missed * 2 * sum(h * w * c for (h, w), c in zip(scale.sizes, scale.channels, strict=True))
    return {"kernel": name, "missed": missed, **medians, "ms": total, "gb_per_s": moved / total / 1e6}


def _runs(name: str) -> bool:
    try:
        backend_module(name)
    except Missing:
        return False
    return True


def _pool(scale: Scale, slots: int, device: torch.device, fused: bool) -> kernels.MapPool:
    """Return a pool of `slots` slots that reads the workload's maps from the host."""
    host = _on_host(scale, device)

    def read(keys: Sequence[int], out: list[list[np.ndarray]]) -> None:
        for level, there in zip(host, out, strict=True):
            for key, values in zip(keys, there, strict=True):
                values[...] = level[key].numpy()

    budget = slots * FusedMaps.slot_bytes(scale.sizes, scale.channels, torch.float16)
    return kernels.MapPool(budget, scale.sizes, scale.channels, read, device=device, fused=fused, at_most=slots)


@lru_cache(maxsize=1)
def _on_host(scale: Scale, device: torch.device) -> list[Tensor]:
    return [level.cpu() for level in workload(scale, device).pool]
