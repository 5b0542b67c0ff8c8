"""The search of the torch backend.

1. Scan: compute distances as matrix products, decomposed into levels (scan.py). Where the coarse levels alone rule out
   most of the gallery, compare only the rest (prune.py). Both keep every cell that may hold a nearest pixel.
2. Measure: compute the distances of these candidates as float32 differences, which do not cancel (found.py).
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue

import torch
from torch import Tensor

from ..per_level import search_levels
from ..pyramid import Size
from ..threads import spread
from .chunks import Chunk, chunks_of
from .features import Plan, Query, make_plan, prepare_query
from .found import Found, Limits, candidates, measure
from .prune import Pruner
from .scan import TILE_BYTES, Scanner
from .window import nearest_in_window

MAPS = 10  # gallery maps that a thread loads at a time, so that operations are few and large
CELLS = 4096  # cells of the maps that a thread loads at a time, if they are more maps than that
PAIRS = 1 << 20  # of a query pixel and a cell: fewer are searched by one thread
DEEP = 64  # channels of the finest level from which its products are faster in bfloat16
WORKING_MEMORY = 256 << 20


@dataclass
class SearchStats:
    """Counts of searches, which add up over calls."""

    pairs: int = 0  # pairs of a query pixel and a cell of a gallery map
    compared: int = 0  # pairs whose finest level was compared, because pruning did not rule them out


@torch.inference_mode(False)  # threads share its tensors
@torch.no_grad()
def nearest_pixels(
    query: Sequence[Tensor],
    pool: Sequence[Tensor],
    pages: Tensor,
    k: int = 1,
    *,
    sizes: Sequence[Size],
    weights: Sequence[float],
    mode: str,
    precision: str = "float32",
    prune: bool | None = None,
    working_memory: int | None = None,
    window: int | None = None,
    stats: SearchStats | None = None,
) -> tuple[Tensor, Tensor]:
    """Search as `spade_index.kernels.nearest_pixels` does, with checked arguments.

    `query` are levels [B, H*W, C], `pool` levels [slots, H*W, C], `pages` int64 [B, K]. Returns squared distances
    float32 [B, P, k] and matches int64 [B, P, k].

    The batch is cut into groups of queries that fit into `working_memory` (bytes), of one query at least. Maps that
    queries of a group share are read and converted once, unless that takes more time (chunks.py). On a CPU, maps are
    spread over `torch.get_num_threads()` threads, or fewer if their buffers do not fit. A query's result does not
    depend on the others.

    Distances are float32 differences, accurate to about 1e-6 of their value (interpolated features: of their squared
    norm). Matches are the k nearest. Where the scan's rounding leaves open which those are, all candidates are
    measured; but of crowds of cells that even float32 does not tell apart, only k + SPARE (found.py) are, those of the
    lowest matches. A query with a crowd in bfloat16 is searched again in float32. Counts are added to `stats`.

    With a `window`, pairs are measured directly (window.py): `precision` and `prune` have no effect, and nothing is
    counted.
    """
    working_memory = working_memory or WORKING_MEMORY
    if mode == "per-level":
        options = {"precision": precision, "prune": prune, "working_memory": working_memory, "stats": stats}
        options |= {"window": window}
        return search_levels(nearest_pixels, query, pool, pages, k, sizes=sizes, weights=weights, **options)
    if window is not None:
        return nearest_in_window(
            query, pool, pages, k, sizes=sizes, weights=weights, bilinear=mode == "concat-bilinear", window=window,
            working_memory=working_memory,
        )  # fmt: skip
    on_cpu = pool[0].device.type == "cpu"
    if prune is None and not on_cpu:
        prune = False  # on a GPU, its many small steps cost more than they save
    half = torch.bfloat16 if _has_bfloat16(pool[0].device) else torch.float32
    finest = half if precision == "fast" and pool[0].shape[2] >= DEEP else torch.float32
    # With pruning, coarse distances serve as bounds, for which rounding costs little: see _allow.
    coarse = half if on_cpu and prune is not False else finest
    plan = make_plan(pool, sizes, weights, mode == "concat-bilinear", finest, coarse)
    distances = torch.empty(pages.shape[0], plan.pixels, k, device=plan.device)
    matches = torch.empty(pages.shape[0], plan.pixels, k, dtype=torch.int64, device=plan.device)

    def search(plan: Plan, queries: Tensor) -> Tensor:
        """Write the results of queries int64 [n]; return those queries whose crowds were not kept completely."""
        found = _Search(plan, [level[queries] for level in query], pages[queries.to(pages.device)], k)
        found.run(working_memory * 3 // 4, prune)
        distances[queries], matches[queries] = found.measure()
        if stats is not None:
            stats.pairs += sum(worker.pairs for worker in found.workers)
            stats.compared += sum(worker.compared for worker in found.workers)
        return queries[found.crowded()]

    def groups(plan: Plan, queries: Tensor) -> tuple[Tensor, ...]:
        return queries.split(max(1, working_memory // 4 // Query.bytes_of(plan, k))) if len(queries) else ()

    every = torch.arange(pages.shape[0], device=plan.device)
    with _full_precision():
        crowded = [search(plan, queries) for queries in groups(plan, every)]
        if crowded and torch.bfloat16 in plan.dtypes:
            # bfloat16 cannot tell apart more of their pixels than are kept: search them in float32.
            exact = make_plan(pool, sizes, weights, plan.bilinear)
            for queries in groups(exact, torch.cat(crowded)):
                search(exact, queries)
    return distances, matches


@contextmanager
def _full_precision() -> Iterator[None]:
    """Compute float32 products in full precision, whatever the program has chosen for all of its threads."""
    chosen = torch.get_float32_matmul_precision()
    if chosen == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(chosen)


def _has_bfloat16(device: torch.device) -> bool:
    """Return whether the device computes bfloat16 products natively, without emulation."""
    if device.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


class _Worker:
    """The buffers and results of one thread, which searches maps for a group of queries."""

    def __init__(self, plan: Plan, queries: list[Query], found: list[Found], maps: int, tile_bytes: int) -> None:
        self.queries, self.found = queries, found
        self.scanner = Scanner(plan, maps, tile_bytes)
        self.pruner = Pruner(self.scanner) if plan.layout.places else None
        self.pairs, self.compared = 0, 0

    def search(self, chunk: Chunk, prune: bool | None) -> None:
        """Search the chunk's maps for the queries that want them."""
        plan, cells = self.scanner.plan, self.scanner.cells
        largest = self.scanner.load(chunk.slots)
        first_pixels = plan.layout.members[0]
        for number, positions in chunk.wanted:
            query, found = self.queries[number], self.found[number]
            found.begin(largest, min(positions) * plan.pixels)
            ids = (torch.tensor(positions, device=plan.device)[:, None] * plan.pixels + first_pixels).flatten()
            pairs = len(chunk.slots) * query.norms.shape[1] * cells
            self.pairs += pairs
            coarse = survivors = None
            if self.pruner is not None:
                coarse = self.pruner.scanner.bounds(query)
                self.pruner.seed(query, found, coarse)
                if prune is not False:
                    survivors = self.pruner.survivors(found, coarse, force=bool(prune))
                if survivors is not None:
                    self.pruner.compare(query, found, coarse, survivors, ids)
                    self.compared += self.pruner.pairs(survivors)
                    continue
            self.scanner.scan(query, found, coarse, ids)
            self.compared += pairs


class _Search:
    """The search of a group of queries."""

    def __init__(self, plan: Plan, query: Sequence[Tensor], pages: Tensor, k: int) -> None:
        self.plan, self.pages, self.k = plan, pages, k
        self.queries = [prepare_query(plan, [level[q] for level in query]) for q in range(len(pages))]
        self.workers: list[_Worker] = []

    def run(self, memory: int, prune: bool | None) -> None:
        """Find the candidates of all queries, with `memory` bytes of buffers."""
        threads, maps, tile_bytes = self._fit(memory)
        allow = partial(_allow, self.plan)  # a method would make a reference cycle, which only the collector frees
        limits = [Limits(query.norms, threads, allow) for query in self.queries]
        idle: SimpleQueue[_Worker] = SimpleQueue()
        for thread in range(threads):
            found = [Found(of_query, thread, self.k) for of_query in limits]
            self.workers.append(_Worker(self.plan, self.queries, found, maps, tile_bytes))
            idle.put(self.workers[-1])

        @torch.no_grad()
        def search(chunk: Chunk) -> None:
            worker = idle.get()
            try:
                worker.search(chunk, prune)
            finally:
                idle.put(worker)

        values = sum(level.shape[1] * level.shape[2] for level in self.plan.pool)
        spread(search, chunks_of(self.pages.tolist(), maps, threads, values), threads)

    def crowded(self) -> Tensor:
        """Return which queries had more candidates than were kept: bool [queries]."""
        crowds = [[worker.found[number].crowd for worker in self.workers] for number in range(len(self.queries))]
        return torch.tensor(
            [any(crowd is not None for crowd in of_query) for of_query in crowds],
            dtype=torch.bool,
            device=self.plan.device,
        )

    def measure(self) -> tuple[Tensor, Tensor]:
        """Return the k nearest candidates: distances float32 [queries, P, k] and matches int64 [queries, P, k]."""
        shape = (len(self.queries), self.plan.pixels, self.k)
        distances = torch.full(shape, math.inf, device=self.plan.device)
        matches = torch.zeros(shape, dtype=torch.int64, device=self.plan.device)
        threads = len(self.workers)
        rows = self.plan.layout.members.numel()
        step = math.ceil(rows / threads)

        @torch.no_grad()
        def write(piece: tuple[int, int]) -> None:
            number, start = piece
            found = [worker.found[number] for worker in self.workers]
            slots = self.pages[number].to(self.plan.device)
            near, ids = candidates(found, start, start + step)
            measure(self.plan, self.queries[number], slots, near, ids, distances[number], matches[number])

        pieces = [(number, start) for number in range(len(self.queries)) for start in range(0, rows, step)]
        spread(write, pieces, threads)
        return distances, matches

    def _fit(self, memory: int) -> tuple[int, int, int]:
        """Return the threads, the most maps that each loads at a time, and the bytes of a tile, so that buffers fit."""
        on_cpu, slots = self.plan.device.type == "cpu", len(self.pages.unique())
        threads = torch.get_num_threads() if on_cpu else 1
        if threads > slots or self._pairs() < PAIRS:
            threads = 1  # too few maps, or too little work: torch spreads larger operations over the threads instead
        for_map = Scanner.bytes_of(self.plan)
        others = Pruner.bytes_of(self.plan) if self.plan.layout.places else 0
        threads = max(1, min(threads, memory // (2 * (for_map + others))))
        mine = memory // threads - others
        tile_bytes = max(1, min(TILE_BYTES, mine // 4) if on_cpu else mine // 4)
        most = max(MAPS, CELLS // self.plan.layout.cells)
        return threads, max(1, min(most, (mine - tile_bytes) // for_map)), tile_bytes

    def _pairs(self) -> int:
        """Return the number of pairs of a query pixel and a gallery cell."""
        return self.pages.numel() * self.plan.layout.members.numel() * self.plan.layout.cells


def _allow(plan: Plan, kth: Tensor, norms: Tensor) -> Tensor:
    """Return the scanned distance [n] up to which a pixel may be nearer than one at a scanned distance of `kth`.

    `norms` [2, n] are |q|^2 + |g|^2, and the same of what rounding to bfloat16 took from q and g. In float32, the error
    comes from the cancellation of a distance's terms. In bfloat16, the distance of two vectors moves by no more than
    both vectors do (the triangle inequality), and the result is rounded to 2^-8 of its value.
    """
    channels = sum(level.shape[2] for level in plan.pool)
    limit = kth + 4 * torch.finfo(torch.float32).eps * math.sqrt(channels) * norms[0]
    if torch.bfloat16 in plan.dtypes:
        moved = 2 * (1 + 2**-8) * (2 * norms[1]).sqrt()  # of both vectors, for each of the two distances
        limit = (limit.clamp(min=0).sqrt_().mul_(1 + 2**-8) + moved).square_()
    return limit
