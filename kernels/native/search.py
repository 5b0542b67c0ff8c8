"""The native search: the torch backend's method, without distances in memory.

1. Scan: multiply tiles of 16 pixels in bfloat16, whose distances stay in a core's cache, add those of the coarse
   levels, and keep the cells that may hold one of the k nearest pixels. Tiles whose coarse distances rule them out are
   not multiplied (scan.inc).
2. Measure: compute the distances of these candidates as float32 differences, which do not cancel.

Both are exact: what rounding to bfloat16 may have moved is bounded by the triangle inequality, and all cells within
that bound are measured. In a window, all pairs are measured at once.
"""

import math
from collections.abc import Callable, Sequence
from ctypes import POINTER, byref, cast, pointer
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from ..codes import CodedMaps
from ..per_level import search_levels
from ..pyramid import Size
from ..threads import spread
from ..torch_backend.search import nearest_pixels as search_in_torch
from . import library as c
from .cells import SIDE
from .parts import takes
from .plan import CANDIDATE_BYTES, ROOM, Plan, Query

LEAST_WORK = 1 << 21  # pairs of pixels that are worth another thread
LEAST_IN_WINDOW = 1 << 16  # the same where all are measured
LOTS = 4  # that a thread scans the maps in, so that none waits long for another
MOST_NEIGHBOURS = 64  # of a pixel: for more, the torch backend's sorting is quicker
WORKING_MEMORY = 256 << 20
FAR = 1.84e19  # the root of any distance is less; its square is a float32, too
LARGE = 1e15  # of weights
ALIGNED = 64  # bytes: a line of a processor's cache


@torch.inference_mode(False)  # threads share its tensors
@torch.no_grad()
def nearest_pixels(
    query: Sequence[Tensor],
    pool: Sequence[Tensor] | CodedMaps,
    pages: Tensor,
    k: int = 1,
    *,
    sizes: Sequence[Size],
    weights: Sequence[float],
    mode: str,
    window: int | None = None,
    working_memory: int | None = None,
    instructions: str | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Search as `spade_index.kernels.nearest_pixels` does, with checked arguments on a processor.

    `query` are levels [B, H*W, C], `pool` levels [slots, H*W, C] or codes, `pages` int64 [B, K]. Returns squared
    distances float32 [B, P, k] and matches int64 [B, P, k].

    Of maps in codes, cells are decoded when they are loaded, and candidates again when they are measured: no map is
    whole in memory. In a window, a thread decodes the rows of a map that it needs.

    Maps are spread over `torch.get_num_threads()` threads, or fewer if their buffers do not fit into `working_memory`
    (bytes); queries are searched together as far as they fit. A map that several queries want is converted once.

    The torch backend searches interpolated levels, and queries of which too many pixels are so alike that bfloat16 does
    not tell them apart; `options` are for it.

    Args:
        instructions: a name in `library.SETS`; by default, the fastest that the processor has.
    """
    options |= {"window": window, "working_memory": working_memory}
    if mode == "per-level":
        options |= {"instructions": instructions, "sizes": sizes, "weights": weights}
        return search_levels(nearest_pixels, query, *_values(pool, pages), k, **options)
    options |= {"sizes": sizes, "weights": weights, "mode": mode}
    if mode != "concat-nearest" or k > MOST_NEIGHBOURS or not _fits(pool):
        return _in_torch(query, pool, pages, k, **options)
    most = max(weights)
    if most and not 1 / LARGE < most < LARGE:  # float32 does not hold distances of such a size
        options |= {"weights": [weight / most for weight in weights], "instructions": instructions}
        distances, matches = nearest_pixels(query, pool, pages, k, **options)
        return distances.mul_(most), matches
    number = c.number(instructions)
    if not isinstance(pool, CodedMaps):
        pool = [level.contiguous() for level in pool]
    plan = Plan(pool, sizes, weights, k, window, number)
    memory, pages = working_memory or WORKING_MEMORY, pages.cpu().contiguous()
    distances = torch.empty(len(pages), plan.pixels, k)
    matches = torch.empty(len(pages), plan.pixels, k, dtype=torch.int64)
    full: list[int] = []
    if window is not None:
        _search_window(plan, number, query, pages, window, distances, matches, memory)
    else:
        threads = _threads(
            plan.pixels**2 * pages.numel() // LEAST_WORK, plan.workspace_bytes(number) + plan.query_bytes(1), memory
        )
        left = memory - threads * plan.workspace_bytes(number)
        for queries in _groups(len(pages), left // plan.query_bytes(threads)):
            search = _Search(plan, number, [level[queries] for level in query], pages[queries], threads)
            search.scan()
            search.measure(distances[queries], matches[queries])
            full += [queries.start + place for place in search.full()]
    if full:
        again = _in_torch([level[full] for level in query], pool, pages[full], k, **options)
        distances[full], matches[full] = again
    return distances, matches


def _fits(pool: Sequence[Tensor] | CodedMaps) -> bool:
    """Return whether the compiled functions take such maps."""
    if isinstance(pool, CodedMaps):
        return takes(pool.coding)
    return len({level.dtype for level in pool}) == 1 and len(pool) <= c.MOST_LEVELS


def _values(pool: Sequence[Tensor] | CodedMaps, pages: Tensor) -> tuple[Sequence[Tensor], Tensor]:
    """Return a pool of values and pages in it."""
    return pool.gathered(pages) if isinstance(pool, CodedMaps) else (pool, pages)


def _in_torch(
    query: Sequence[Tensor], pool: Sequence[Tensor] | CodedMaps, pages: Tensor, k: int, **options: Any
) -> tuple[Tensor, Tensor]:
    """Search with the torch backend: of maps in codes, those of one query are decoded at a time."""
    if not isinstance(pool, CodedMaps) or not len(pages):
        return search_in_torch(query, *_values(pool, pages), k, **options)
    each = [slice(number, number + 1) for number in range(len(pages))]
    found = [search_in_torch([level[of] for level in query], *pool.gathered(pages[of]), k, **options) for of in each]
    return torch.cat([distances for distances, _ in found]), torch.cat([matches for _, matches in found])


def _groups(count: int, size: int) -> list[slice]:
    """Divide queries into groups of at most `size`, of one at least."""
    size = max(1, size)
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def _threads(most: int, bytes_of_one: int, memory: int) -> int:
    """Return the number of threads: as many as have work, `most`, and whose buffers fit."""
    return max(1, min(torch.get_num_threads(), most, memory // max(1, bytes_of_one)))


class _Buffers:
    """A buffer for each thread."""

    def __init__(self, count: int, size: int) -> None:
        self._buffers = [torch.empty(size + ALIGNED, dtype=torch.uint8) for _ in range(count)]
        self._free: SimpleQueue[int] = SimpleQueue()
        for number in range(count):
            self._free.put(number)

    def lend(self, function: Callable[[int, int], None]) -> None:
        """Call a function with the number and the address of a buffer that no other thread uses."""
        number = self._free.get()
        try:
            function(number, -(-self._buffers[number].data_ptr() // ALIGNED) * ALIGNED)
        finally:
            self._free.put(number)


class _Search:
    """The search for some queries, whose candidates are kept together."""

    def __init__(self, plan: Plan, instructions: int, query: list[Tensor], pages: Tensor, threads: int) -> None:
        self.plan, self.instructions, self.pages, self.threads = plan, instructions, pages, threads
        self.queries = [Query(plan, [level[number] for level in query]) for number in range(len(pages))]
        self.buffers = _Buffers(threads, plan.workspace_bytes(instructions))
        rows, k, room = plan.rows, plan.k, ROOM * plan.k * plan.rows
        shape = (len(pages), threads, rows)
        self.best = torch.full((*shape, k), math.inf)
        self.kth, self.root = torch.full(shape, FAR), torch.empty(shape)
        self.kept = torch.empty(*shape[:2], room * CANDIDATE_BYTES, dtype=torch.uint8)
        self.found = [(c.Found * threads)() for _ in self.queries]
        for number, of_query in enumerate(self.found):
            for thread, one in enumerate(of_query):
                for name in ("best", "kth", "root", "kept"):
                    setattr(one, name, getattr(self, name)[number, thread].data_ptr())
                one.room = room

    def scan(self) -> None:
        """Find the candidates of all queries."""
        wanted: dict[int, list[tuple[int, int]]] = {}
        for number, page in enumerate(self.pages.tolist()):
            for position, slot in enumerate(page):
                wanted.setdefault(slot, []).append((number, position))
        slots = (c.Slot * len(wanted))()
        users = []  # which slots point to
        for slot, (number, pairs) in zip(slots, wanted.items(), strict=True):
            users.append((c.Wanted * len(pairs))())
            slot.number, slot.wanted, slot.count = number, users[-1], len(pairs)
            for place, (query, position) in enumerate(pairs):
                found = cast(self.found[query], POINTER(c.Found))
                users[-1][place] = c.Wanted(pointer(self.queries[query].c), found, position)
        tiles = self.plan.layout.cells // SIDE
        parts = min(tiles, -(-self.threads // max(1, len(slots))))  # of a map's work, where maps are few
        lots = len(slots) if parts > 1 else min(len(slots), LOTS * self.threads if self.threads > 1 else 1)

        def prepare(query: Query) -> None:
            """Fill what a query has beside its features."""
            self.buffers.lend(
                lambda _, buffer: c.library().spade_prepare(self.instructions, self.plan.c, buffer, query.c)
            )

        def search(item: tuple[int, int]) -> None:
            """Scan a part of the maps of a lot of slots for the queries that want them."""
            lot, part = item
            first, end = len(slots) * lot // lots, len(slots) * (lot + 1) // lots
            self.buffers.lend(
                lambda thread, buffer: c.library().spade_scan(
                    *(self.instructions, self.plan.c, buffer, byref(slots[first]), end - first),
                    *(self.threads, thread, tiles * part // parts, tiles * (part + 1) // parts),
                )
            )

        spread(prepare, self.queries, self.threads)
        spread(search, [(lot, part) for lot in range(lots) for part in range(parts)], self.threads)

    def full(self) -> list[int]:
        """Return the queries that have more candidates than are kept."""
        return [number for number, found in enumerate(self.found) if any(one.full for one in found)]

    def measure(self, distances: Tensor, matches: Tensor) -> None:
        """Write the k nearest of the candidates to distances [B, P, k] and matches [B, P, k]."""
        step = -(-self.plan.rows // self.threads)

        def write(item: tuple[int, int]) -> None:
            """Measure the candidates of some rows of a query."""
            number, start = item
            self.buffers.lend(
                lambda _, buffer: c.library().spade_measure(
                    *(self.instructions, self.plan.c, buffer, self.queries[number].c, self.found[number], self.threads),
                    *(self.pages[number].data_ptr(), start, min(start + step, self.plan.rows)),
                    *(distances[number].data_ptr(), matches[number].data_ptr()),
                )
            )

        pieces = [(number, start) for number in range(len(self.queries)) for start in range(0, self.plan.rows, step)]
        spread(write, pieces, self.threads)


def _search_window(
    plan: Plan,
    instructions: int,
    query: Sequence[Tensor],
    pages: Tensor,
    window: int,
    distances: Tensor,
    matches: Tensor,
    memory: int,
) -> None:
    """Write the k nearest pixels within a window to distances [B, P, k] and matches [B, P, k]."""
    queries = [Query(plan, [level[number] for level in query]) for number in range(len(pages))]
    needed = c.library().spade_window_bytes(instructions, plan.c)
    threads = _threads(plan.pixels * (2 * window + 1) ** 2 * pages.numel() // LEAST_IN_WINDOW, needed, memory)
    buffers = _Buffers(threads, needed)
    height = plan.c.level[0].height
    parts = max(1, min(height, -(-threads // max(1, len(queries)))))
    bounds = [height * part // parts for part in range(parts + 1)]

    def search(item: tuple[int, int]) -> None:
        """Search some rows of a query's grid."""
        number, part = item
        buffers.lend(
            lambda _, buffer: c.library().spade_window(
                *(instructions, plan.c, buffer, queries[number].c, pages[number].data_ptr(), pages.shape[1], window),
                *(bounds[part], bounds[part + 1], distances[number].data_ptr(), matches[number].data_ptr()),
            )
        )

    spread(search, [(number, part) for number in range(len(queries)) for part in range(parts)], threads)
