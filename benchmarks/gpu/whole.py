"""Time whole searches by contenders, each verified before it is timed, and what the GPU can do at most."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from spade_index.benchmarks import pixel_checks, pixel_peers
from spade_index.benchmarks.gpu.peers import CONTENDERS
from spade_index.benchmarks.gpu.runner import Row, Wrong
from spade_index.benchmarks.gpu.timing import graphs, milliseconds, poisoned, synchronize
from spade_index.benchmarks.gpu.workload import MODE, Found, Inputs, Scale, workload
from spade_index.benchmarks.harness import one_line, spread

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
    of_query = {name: value / batch for name, value in spread(times, "ms").items()}
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
        return {"graph": one_line(error)}
    figures = _figures(times, scale, neighbours, batch)
    return {"graph": "ok", "graph_ms": figures["ms"], "graph_tflops": figures["tflops"]}


def matmul(shape: tuple[int, int, int], dtype: torch.dtype, scale: Scale, device: torch.device) -> Row:
    """Time torch's product [rows, inner] by [inner, columns] of random numbers, into an existing buffer."""
    rows, inner, columns = shape
    a, b = (torch.randn(n, inner, device=device).to(dtype) for n in (rows, columns))
    out = torch.mm(a, b.T)
    times = milliseconds(lambda _: torch.mm(a, b.T, out=out), [None], device, 2 * scale.seconds)
    row: Row = {"shape": list(shape), "dtype": str(dtype).removeprefix("torch."), **spread(times, "ms")}
    return row | {"tflops": 2 * rows * inner * columns / row["ms"] / 1e9}
