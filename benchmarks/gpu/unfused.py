"""Peers made of torch's own products and minima, without custom kernels.

Peers get everything prepared as they like it best: maps gathered in a row, in float16, with |g|^2 as two more
channels, upsampled and concatenated if they want that. Their matches are measured again, as ours are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from spade_index.benchmarks.gpu.runner import Missing
from spade_index.benchmarks.gpu.timing import median_ms
from spade_index.benchmarks.gpu.workload import Call, Found, Inputs, Prepared, Workload
from spade_index.kernels.fused.geometry import make_geometry
from spade_index.kernels.pyramid import Size, nearest_index

PREPARED_BYTES = 12 << 30  # at most, of what peers are given
AT_A_TIME = (50, 10, 5, 2)  # maps that unfused peers may take at a time: the quickest is timed


@dataclass(frozen=True)
class Side:
    """One query's search, prepared for products."""

    query: list[Tensor]  # float16 rows [n, columns] of each level, or of the concatenation
    maps: list[Tensor]  # float16 [K, n, columns]
    exact_query: Tensor  # float32 [P, D], concatenated
    page: Tensor  # int64 [K], the maps' slots


@cache
def _covering(sizes: tuple[Size, ...], device: torch.device) -> list[Tensor]:
    """Return each level's pixel that covers each finest pixel, int64 [P]."""
    return [nearest_index(size, sizes[0]).to(device) for size in sizes]


def concatenate(work: Workload, levels: Sequence[Tensor]) -> Tensor:
    """Upsample levels [n, H*W, C] to the finest grid and concatenate them: [n, P, D]."""
    covering = _covering(work.scale.sizes, work.device)
    return torch.cat([level[:, index] for level, index in zip(levels, covering, strict=True)], 2)


def roomy(batches: Sequence[Inputs], bytes_of_map: int) -> Sequence[Inputs]:
    """Return as many batches as may be prepared. Raises Missing if not even one may."""
    needed = batches[0].pages.numel() * bytes_of_map
    if needed > PREPARED_BYTES:
        raise Missing(f"{needed >> 30} GiB would have to be prepared")
    return batches[: PREPARED_BYTES // needed]


def prepare(
    work: Workload, batches: Sequence[Inputs], bytes_of_map: int, make: Callable[..., tuple[list[Tensor], list[Tensor]]]
) -> list[list[Side]]:
    """Prepare batches, as many as there is room for.

    `make(query, maps, exact)` returns both sides of products, of levels [n, C] and [K, n, C] and the query [P, D].
    """
    made = []
    for one in roomy(batches, bytes_of_map):
        sides = []
        for number, page in enumerate(one.pages):
            query = [level[number] for level in one.query]
            exact = concatenate(work, [level[None] for level in query])[0]
            sides.append(Side(*make(query, [level[page] for level in work.pool], exact), exact, page))
        made.append(sides)
    return made


def map_bytes(work: Workload, size: int, concatenated: bool = True, more: int = 0) -> int:
    """Return the bytes of a map whose values take `size` bytes, with `more` channels."""
    if concatenated:
        return size * work.scale.pixels * (sum(work.scale.channels) + more)
    return size * sum(h * w * (c + more) for (h, w), c in zip(work.scale.sizes, work.scale.channels, strict=True))


def measured(work: Workload, sides: Sequence[Side], matches: Sequence[Tensor]) -> Found:
    """Measure the matches int64 [P] of each query as float32 differences: [B, P, 1] both."""
    distances = []
    for side, found in zip(sides, matches, strict=True):
        slot, pixel = side.page[found // work.scale.pixels], found % work.scale.pixels
        covering = _covering(work.scale.sizes, work.device)
        near = torch.cat([level[slot, index[pixel]] for level, index in zip(work.pool, covering, strict=True)], 1)
        distances.append((side.exact_query - near).square_().sum(1))
    return torch.stack(distances)[..., None], torch.stack(list(matches))[..., None]


def _with_norms(features: Tensor) -> Tensor:
    """Append squared norms, as two float16 numbers, to gallery rows: [.., C] to [.., C + 8]."""
    norms = torch.linalg.vector_norm(features, dim=-1, dtype=torch.float32).square_()
    more = features.new_zeros(*features.shape[:-1], 8)
    more[..., 0] = norms.half()
    more[..., 1] = (norms - norms.half().float()).half()
    return torch.cat([features, more], -1)


def _with_ones(features: Tensor) -> Tensor:
    """Make query rows [.., C] whose products with `_with_norms` are |g|^2 - 2 q.g: float16 [.., C + 8]."""
    more = features.new_zeros(*features.shape[:-1], 8)
    more[..., :2] = 1
    return torch.cat([-2 * features, more], -1).half()


def _least_over_maps(maps: Sequence[Tensor], at_a_time: int, least: Callable[..., Any], places: int) -> Tensor:
    """Return where the least of all maps is; `least` gives the values and places of some maps, of `places` each."""
    best: Any = None
    where: Any = None
    for first in range(0, len(maps[0]), at_a_time):
        values, at = least([level[first : first + at_a_time] for level in maps])
        at = at + first * places
        if best is not None:
            at, values = torch.where(values < best, at, where), torch.minimum(values, best)
        best, where = values, at
    found: Tensor = where
    return found


def _least(products: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least of products [planes, cells, n, planes, cells] plus coarse [cells, n, cells], and its place."""
    values, at = (products.amin(3) + coarse).flatten(2).min(2)  # [planes, cells]
    return values, at


def _decomposed(work: Workload, least: Callable[..., Any], at_a_time: int, sides: Sequence[Side]) -> Found:
    """Search level by level: the least of a cell's children, plus the coarse levels, and the least of all cells."""
    shape = make_geometry(work.scale.sizes, 128, work.device)
    members = shape.members.view(shape.planes, shape.cells)

    def least_of(side: Side, maps: Sequence[Tensor]) -> Any:
        n, coarse = len(maps[0]), torch.zeros((), dtype=torch.float16, device=work.device)
        for level in range(len(maps) - 1, 0, -1):
            d = (side.query[level] @ maps[level].flatten(0, 1).T).unflatten(1, (n, -1))
            if d.shape[0] != shape.cells:
                under = shape.level_cells[level - 1]
                d = d[under][:, :, under]
            coarse = d + coarse
        products = side.query[0] @ maps[0].flatten(0, 1).T
        return least(products.view(shape.planes, shape.cells, n, shape.planes, shape.cells), coarse)

    found = []
    for side in sides:
        where = _least_over_maps(side.maps, at_a_time, partial(least_of, side), shape.cells)  # [planes, cells]
        position, cell = where // shape.cells, where % shape.cells
        rows = torch.arange(shape.planes, device=work.device) * shape.cells + cell[..., None]
        children = side.maps[0][position[..., None], rows]  # [planes, cells, planes, C + 8]
        plane = (children @ side.query[0].view(shape.planes, shape.cells, -1, 1))[..., 0].argmin(2)
        matches = torch.empty(work.scale.pixels, dtype=torch.int64, device=work.device)
        matches[shape.members] = (position * work.scale.pixels + members[plane, cell]).flatten()
        found.append(matches)
    return measured(work, sides, found)


def _concatenated(work: Workload, at_a_time: int, sides: Sequence[Side]) -> Found:
    """Search by one product of concatenated features, and its least."""

    def least_of(side: Side, maps: Sequence[Tensor]) -> Any:
        return (side.query[0] @ maps[0].flatten(0, 1).T).min(1)

    found = [_least_over_maps(s.maps, at_a_time, partial(least_of, s), work.scale.pixels) for s in sides]
    return measured(work, sides, found)


def _quickest(make: Callable[[int], Call], given: list[Any], work: Workload, most: int) -> Prepared:
    """Choose the best number of maps at a time."""
    times = {}
    for maps in sorted({min(maps, most) for maps in AT_A_TIME} | {most}):
        call = make(maps)
        call(given[0])
        times[maps] = median_ms(call, given[:1], work.device, min(0.05, work.scale.seconds))
    best = min(times, key=lambda maps: times[maps])
    return make(best), given, {"maps_at_a_time": best}


def _decomposed_sides(work: Workload, batches: Sequence[Inputs]) -> list[Any]:
    members = make_geometry(work.scale.sizes, 128, work.device).members

    def both(query: list[Tensor], maps: list[Tensor], exact: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        ordered = [query[0][members], *query[1:]], [maps[0][:, members], *maps[1:]]
        return [_with_ones(q) for q in ordered[0]], [_with_norms(g) for g in ordered[1]]

    return prepare(work, batches, map_bytes(work, 2, concatenated=False, more=8), both)


def unfused(work: Workload, batches: Sequence[Inputs]) -> Prepared:
    """Prepare products level by level."""
    given, most = _decomposed_sides(work, batches), batches[0].pages.shape[1]
    return _quickest(lambda n: partial(_decomposed, work, _least, n), given, work, most)


def compiled(work: Workload, batches: Sequence[Inputs]) -> Prepared:
    """Prepare products level by level, with a minimum that torch compiles."""
    if work.device.type != "cuda":
        raise Missing("torch.compile is tried on a GPU only")
    given, least = _decomposed_sides(work, batches), torch.compile(_least, dynamic=False)
    return partial(_decomposed, work, least, batches[0].pages.shape[1]), given, {}


def product(work: Workload, batches: Sequence[Inputs]) -> Prepared:
    """Prepare products of concatenated features."""

    def both(query: list[Tensor], maps: list[Tensor], exact: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return [_with_ones(exact)], [_with_norms(concatenate(work, maps))]

    given, most = prepare(work, batches, map_bytes(work, 2, more=8), both), batches[0].pages.shape[1]
    return _quickest(lambda n: partial(_concatenated, work, n), given, work, most)
