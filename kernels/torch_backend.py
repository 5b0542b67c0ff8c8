"""The pixel search in plain torch, on any device: one gallery map at a time, never a P x K*P matrix.

1. Scan (torch_scan.py): the minimum over every block of gallery pixels of distances in expanded form. The k
   smallest distances lie in the k blocks with the smallest minima.
2. Rescore: the pixels of those blocks are measured again as float32 differences, which do not cancel.
"""

import math
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

import torch
from torch import Tensor

from .pyramid import Size, upsample_bilinear
from .torch_scan import CPU_TILE, Plan, Scanner, make_plan

T = TypeVar("T")

SPARE = 3  # blocks beyond k that are rescored where rounding could have hidden a winner in them
RESCORE = 1 << 20  # feature values of a level gathered at a time in the second pass
SLICE = 1024  # query pixels whose blocks are chosen at a time


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
    working_memory: int = 256 << 20,
) -> tuple[Tensor, Tensor]:
    """As `spade_index.kernels.nearest_pixels`, with checked arguments and no defaults left open.

    query levels [B, H*W, C], pool levels [slots, H*W, C], pages int64 [B, K]; returns squared distances
    float32 [B, P, k] and matches int64 [B, P, k].

    `working_memory` (bytes, default 256 MiB) bounds what grows with K, P and the batch: a batch is cut into
    groups of queries that fit. One query is always taken, and float32 copies of the group's queries, and for every
    thread of a query and a gallery map, come on top. A map that several queries of a group share is read and converted
    once in each pass. The result of a query does not depend on the others.

    On a CPU, maps are spread over `torch.get_num_threads()` threads.

    Returned distances are differences, right to about 1e-6 of their value (interpolated features: of their
    squared norm). Matches are the k nearest wherever the expanded form separates the k blocks of nearest pixels
    from all but the next three. Ties: among the pixels that were rescored, the lowest match comes first.
    """
    if mode == "per-level":
        return _per_level(query, pool, pages, k, sizes, weights, working_memory)
    batch, neighbours = pages.shape
    plan = make_plan(pool, sizes, weights, mode == "concat-bilinear", neighbours, working_memory // 2)
    distances = torch.empty(batch, plan.pixels, k, device=plan.device)
    matches = torch.empty(batch, plan.pixels, k, dtype=torch.int64, device=plan.device)
    group = max(1, working_memory // 2 // (4 * neighbours * len(plan.block_cells) * plan.pixels))
    for rows in torch.arange(batch).split(group):
        if len(rows):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            search = _Search(plan, [level[part] for level in query], pages[part].tolist(), k)
            search.run(distances[part], matches[part], working_memory // 4)
    return distances, matches


def _per_level(
    query: Sequence[Tensor],
    pool: Sequence[Tensor],
    pages: Tensor,
    k: int,
    sizes: Sequence[Size],
    weights: Sequence[float],
    working_memory: int,
) -> tuple[Tensor, Tensor]:
    total = torch.zeros(pages.shape[0], query[0].shape[1], k, device=query[0].device)
    finest = torch.empty(0)
    for level in reversed(range(len(query))):
        d, finest = nearest_pixels(
            [query[level]],
            [pool[level]],
            pages,
            k,
            sizes=[sizes[level]],
            weights=[1.0],
            mode="concat-nearest",
            working_memory=working_memory,
        )
        for b in range(pages.shape[0]):
            up = upsample_bilinear(d[b], sizes[level], sizes[0])
            total[b].add_(up, alpha=weights[level] / len(query))
    return total, finest


class _Search:
    """The search of a group of queries. Query pixels stand in the plan's order until the end."""

    def __init__(self, plan: Plan, query: Sequence[Tensor], pages: list[list[int]], k: int) -> None:
        self.plan, self.k = plan, k
        self.queries = [plan.arrange([level[q] for level in query]) for q in range(len(pages))]
        self.users: dict[int, list[tuple[int, int]]] = defaultdict(list)  # slot -> (query, position in its pages)
        for q, slots in enumerate(pages):
            for position, slot in enumerate(slots):
                self.users[slot].append((q, position))
        blocks, pixels = len(plan.block_cells), plan.pixels
        self.minima = torch.empty(len(pages), len(pages[0]), blocks, pixels, device=plan.device)
        # The chosen blocks of a pixel, by ascending minimum, and what is found in them.
        m, keep = min(k + SPARE, len(pages[0]) * blocks), min(k, plan.block_pixels.shape[1])
        self.position = torch.empty(len(pages), pixels, m, dtype=torch.int64, device=plan.device)
        self.block = torch.empty_like(self.position)
        self.wanted = torch.empty_like(self.position, dtype=torch.bool)
        self.distances = torch.full((len(pages), pixels, m, keep), math.inf, device=plan.device)
        self.matches = torch.zeros((len(pages), pixels, m, keep), dtype=torch.int64, device=plan.device)
        self.scale = torch.zeros(len(pages), len(pages[0]), pixels, device=plan.device)

    def run(self, distances: Tensor, matches: Tensor, tile: int) -> None:
        """Write distances [queries, P, k] and matches; `tile` is Scanner's, for devices other than the CPU."""
        on_cpu = self.plan.device.type == "cpu"
        threads = torch.get_num_threads() if on_cpu else 1
        if threads > len(self.users):
            threads = 1  # too few maps for the threads: torch spreads its own operations over them
        scanners: SimpleQueue[Scanner] = SimpleQueue()
        for _ in range(threads):
            scanners.put(Scanner(self.plan, CPU_TILE if on_cpu else tile))

        @torch.no_grad()
        def scan(slot: int) -> None:
            scanner = scanners.get()
            try:
                scanner.load(slot)
                for q, position in self.users[slot]:
                    self.scale[q, position] = scanner.scan(self.queries[q], self.minima[q, position])
            finally:
                scanners.put(scanner)

        pieces = [
            (q, slice(start, start + SLICE))
            for q in range(len(self.queries))
            for start in range(0, self.plan.pixels, SLICE)
        ]
        _spread(scan, self.users, threads)
        _spread(self._choose, pieces, threads)
        _spread(self._rescore, self.users, threads)
        _spread(lambda piece: self._merge(piece, distances, matches), pieces, threads)

    @torch.no_grad()
    def _choose(self, piece: tuple[int, slice]) -> None:
        """Choose blocks by their minima, which are used up. Equal minima go to the lowest position and block.

        Blocks beyond the first k are wanted where rounding could have put them behind the k-th.
        """
        q, rows = piece
        position, block = self.position[q, rows], self.block[q, rows]
        minima = self.minima[q, :, :, rows]  # [K, blocks, n]
        each = torch.arange(len(position), device=minima.device)
        lowest = minima.amin(1)  # [K, n]
        values = minima.new_empty(position.shape)
        for i in range(position.shape[1]):
            position[:, i] = at = lowest.argmin(0)
            here = minima[at, :, each]  # [n, blocks]
            block[:, i] = b = here.argmin(1)
            values[:, i] = here[each, b]
            minima[at, b, each] = here[each, b] = math.inf
            lowest[at, each] = here.amin(1)
        channels = sum(level.shape[2] for level in self.plan.pool)
        rounding = 4 * torch.finfo(torch.float32).eps * math.sqrt(channels) * self.scale[q][:, rows].amax(0)
        self.wanted[q, rows] = values <= (values[:, : self.k][:, -1] + rounding)[:, None]
        self.wanted[q, rows, : self.k] = True

    @torch.no_grad()
    def _rescore(self, slot: int) -> None:
        """Find the k smallest distances in each chosen block of a map."""
        plan, keep = self.plan, self.distances.shape[3]
        gallery = plan.features([level[slot] for level in plan.pool])
        fine, coarse = plan.block_pixels.shape[1], plan.block_cells.shape[1]
        widest = max([fine * gallery[0].shape[1], *(coarse * g.shape[1] for g in gallery[1:])])
        step = max(1, RESCORE // widest)
        for q, position in self.users[slot]:
            rows, ranks = (self.wanted[q] & (self.position[q] == position)).nonzero(as_tuple=True)
            for r, i in zip(rows.split(step), ranks.split(step), strict=True):
                block = self.block[q, r, i]
                d = self._differences(self.queries[q], gallery, r, block)
                matches = plan.block_pixels[block] + position * plan.pixels
                self.distances[q, r, i], self.matches[q, r, i] = _smallest(d, matches, keep)

    def _differences(self, query: Sequence[Tensor], gallery: Sequence[Tensor], rows: Tensor, block: Tensor) -> Tensor:
        """Distances of query rows [n] to the pixels of one block each [n]: [n, cells of a block * planes]."""
        plan = self.plan
        d = _square_distances(query[0], gallery[0], rows, plan.block_pixels[block]) * plan.weights[0]
        cells = plan.block_cells[block]  # [n, cells of a block]
        by_cell = d.view(*cells.shape, plan.layout.planes)
        levels = zip(query[1:], gallery[1:], plan.layout.cell_rows, plan.weights[1:], strict=True)
        for q, g, under, w in levels:
            by_cell.add_(_square_distances(q, g, rows % len(q), under[cells])[:, :, None], alpha=w)
        return d

    @torch.no_grad()
    def _merge(self, piece: tuple[int, slice], distances: Tensor, matches: Tensor) -> None:
        q, rows = piece
        d, m = _smallest(self.distances[q, rows].flatten(1), self.matches[q, rows].flatten(1), self.k)
        raster = self.plan.layout.query_rows[0][rows]
        distances[q, raster], matches[q, raster] = d, m


def _square_distances(q: Tensor, g: Tensor, rows: Tensor, places: Tensor) -> Tensor:
    """Squared distances of q[rows] [n, C] to g[places] [n, s, C]: float32 [n, s]."""
    gathered = g.index_select(0, places.flatten()).view(*places.shape, g.shape[1])
    return gathered.sub_(q.index_select(0, rows)[:, None]).square_().sum(2)


def _smallest(distances: Tensor, matches: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of distances [n, s], which are used up, and their matches; equal ones by lowest match.

    A match that stands twice counts once.
    """
    distances.nan_to_num_(nan=math.inf, posinf=math.inf)
    far = torch.iinfo(matches.dtype).max
    d = distances.new_empty(len(distances), k)
    m = matches.new_empty(len(distances), k)
    for i in range(k):
        d[:, i] = distances.amin(1)
        m[:, i] = torch.where(distances == d[:, i : i + 1], matches, far).amin(1)
        distances.masked_fill_(matches == m[:, i : i + 1], math.inf)
    return d, m


def _spread(function: Callable[[T], None], items: Iterable[T], threads: int) -> None:
    """Call a function for every item, in threads whose torch operations each run in one thread.

    Threads that meet once for a map, and not in each of its hundreds of operations, cost less, and much less when
    something else wants the cores.
    """
    if threads == 1:
        for item in items:
            function(item)
    else:
        for _ in _pool(threads).map(function, items):
            pass


_pools: dict[int, ThreadPoolExecutor] = {}
_pools_lock = threading.Lock()
# A forked child has none of its parent's threads.
os.register_at_fork(after_in_child=_pools.clear)


def _pool(threads: int) -> ThreadPoolExecutor:
    with _pools_lock:
        if threads not in _pools:
            before = torch.get_num_threads()
            started = threading.Barrier(threads + 1)
            _pools[threads] = ThreadPoolExecutor(threads, "nearest-pixels", _be_one_thread, (started,))
            for _ in range(threads):
                _pools[threads].submit(int)
            started.wait()
            # The setting is also the default of threads yet to come: put that back.
            torch.set_num_threads(before)
        return _pools[threads]


def _be_one_thread(started: threading.Barrier) -> None:
    torch.set_num_threads(1)
    torch.get_num_threads()  # takes up the default, which would otherwise happen at the first operation
    started.wait()
