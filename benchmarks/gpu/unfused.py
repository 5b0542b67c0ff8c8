"""What torch can do with a GPU without kernels of one's own: products, written out, and the least of them.

Peers find everything as they like it best: maps gathered in a row, in float16, with |g|^2 as two more channels,
upsampled and concatenated if they want that. What they find is measured again, as ours is.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from spade_index.benchmarks.gpu.data import Call, Found, Inputs, Prepared, Workload, milliseconds
from spade_index.benchmarks.gpu.runner import Missing
from spade_index.kernels.fused.geometry import make_geometry, raster_layout
from spade_index.kernels.pyramid import nearest_index

PREPARED_BYTES = 12 << 30  # for what peers are given, at most
AT_A_TIME = (50, 10, 5, 2)  # maps that unfused peers may take at a time: the quickest is timed


@dataclass(frozen=True)
class Side:
    """One query's search, as unfused products want it: rows [n, C + 8] of each level, |g|^2 among the channels."""

    query: list[Tensor]  # float16 [n, C + 8] of each level, or of the concatenation
    maps: list[Tensor]  # float16 [K, n, C + 8]
    exact_query: Tensor  # float32 [P, D], concatenated
    page: Tensor  # int64 [K], the maps' slots


def _with_norms(features: Tensor) -> Tensor:
    """Gallery rows [.., C] and their squared norms, as two float16 numbers: [.., C + 8]."""
    norms = torch.linalg.vector_norm(features, dim=-1, dtype=torch.float32).square_()
    large = norms.half()
    more = features.new_zeros(*features.shape[:-1], 8)
    more[..., 0], more[..., 1] = large, (norms - large.float()).half()
    return torch.cat([features, more], -1)


def _with_ones(features: Tensor) -> Tensor:
    """Query rows [.., C], such that a product with `_with_norms` is |g|^2 - 2 q.g: float16 [.., C + 8]."""
    more = features.new_zeros(*features.shape[:-1], 8)
    more[..., :2] = 1
    return torch.cat([-2 * features, more], -1).half()


def concatenate(work: Workload, levels: Sequence[Tensor]) -> Tensor:
    """Levels [n, H*W, C] on the finest grid: [n, P, D]."""
    return torch.cat([level[:, index] for level, index in zip(levels, _under(work), strict=True)], 2)


def roomy(batches: Sequence[Inputs], bytes_of_map: int) -> Sequence[Inputs]:
    """As many batches as may be prepared. Raises Missing if not even one."""
    needed = batches[0].pages.numel() * bytes_of_map
    if needed > PREPARED_BYTES:
        raise Missing(f"{needed >> 30} GiB would have to be prepared")
    return batches[: PREPARED_BYTES // needed]


def _sides(work: Workload, batches: Sequence[Inputs], concatenated: bool) -> list[list[Side]]:
    """Each batch's queries, prepared."""
    rows = [work.scale.pixels] if concatenated else [h * w for h, w in work.scale.sizes]
    channels = [sum(work.scale.channels)] if concatenated else work.scale.channels
    batches = roomy(batches, 2 * sum(n * (c + 8) for n, c in zip(rows, channels, strict=True)))
    members = raster_layout(tuple(work.scale.sizes)).members.flatten().to(work.device)
    made = []
    for one in batches:
        sides = []
        for number, page in enumerate(one.pages):
            levels = [level[page] for level in work.pool]
            query = [level[number] for level in one.query]
            exact = concatenate(work, [level[None] for level in query])[0]
            if concatenated:
                sides.append(Side([_with_ones(exact)], [_with_norms(concatenate(work, levels))], exact, page))
            else:
                both = [query[0][members], *query[1:]], [levels[0][:, members], *levels[1:]]
                sides.append(Side([_with_ones(q) for q in both[0]], [_with_norms(g) for g in both[1]], exact, page))
        made.append(sides)
    return made


def measured(work: Workload, side: Side, matches: Tensor) -> Found:
    """Distances of matches int64 [P], as float32 differences: [P, 1] both."""
    slot, pixel = side.page[matches // work.scale.pixels], matches % work.scale.pixels
    near = torch.cat([level[slot, index[pixel]] for level, index in zip(work.pool, _under(work), strict=True)], 1)
    return (side.exact_query - near).square_().sum(1, keepdim=True), matches[:, None]


@cache
def _under_of(sizes: tuple[tuple[int, int], ...], device: torch.device) -> list[Tensor]:
    return [nearest_index(size, sizes[0]).to(device) for size in sizes]


def _under(work: Workload) -> list[Tensor]:
    return _under_of(work.scale.sizes, work.device)


def stack(found: Sequence[Found]) -> Found:
    return torch.stack([d for d, _ in found]), torch.stack([m for _, m in found])


def _least(products: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
    """Of products [planes, cells, n, planes, cells] and coarse [cells, n, cells]: least and place [planes, cells]."""
    total = products.amin(3) + coarse
    return total.flatten(2).min(2)


def _decomposed(work: Workload, least: Callable[..., Any], maps: int, sides: Sequence[Side]) -> Found:
    """Products level by level, the least of four children, the coarse levels added, the least of all."""
    sizes = work.scale.sizes
    shape = make_geometry(sizes, 128, work.device)
    members = shape.members.view(shape.planes, shape.cells)
    found = []
    for side in sides:
        best: Any = None
        where: Any = None
        for first in range(0, len(side.maps[0]), maps):
            some = [level[first : first + maps] for level in side.maps]
            n = len(some[0])
            coarse: Any = 0
            for level in range(len(sizes) - 1, 0, -1):
                d = (side.query[level] @ some[level].flatten(0, 1).T).unflatten(1, (n, -1))
                if d.shape[0] != shape.cells:
                    under = shape.level_cells[level - 1]
                    d = d[under][:, :, under]
                coarse = d + coarse
            products = side.query[0] @ some[0].flatten(0, 1).T
            values, at = least(products.view(shape.planes, shape.cells, n, shape.planes, shape.cells), coarse)
            at = at + first * shape.cells
            if best is not None:
                at, values = torch.where(values < best, at, where), torch.minimum(values, best)
            best, where = values, at
        position, cell = where // shape.cells, where % shape.cells
        rows = torch.arange(shape.planes, device=work.device) * shape.cells + cell[..., None]
        children = side.maps[0][position[..., None], rows]  # [planes, cells, planes, C + 8]
        of_query = side.query[0].view(shape.planes, shape.cells, -1, 1)
        plane = (children @ of_query)[..., 0].argmin(2)
        matches = torch.empty(work.scale.pixels, dtype=torch.int64, device=work.device)
        matches[shape.members] = (position * work.scale.pixels + members[plane, cell]).flatten()
        found.append(measured(work, side, matches))
    return stack(found)


def _concatenated(work: Workload, maps: int, sides: Sequence[Side]) -> Found:
    """One product of concatenated features, and its least."""
    found = []
    for side in sides:
        best: Any = None
        where: Any = None
        for first in range(0, len(side.maps[0]), maps):
            values, at = (side.query[0] @ side.maps[0][first : first + maps].flatten(0, 1).T).min(1)
            at = at + first * work.scale.pixels
            if best is not None:
                at, values = torch.where(values < best, at, where), torch.minimum(values, best)
            best, where = values, at
        found.append(measured(work, side, where))
    return stack(found)


def _quickest(make: Callable[[int], Call], given: Any, work: Workload, most: int) -> tuple[Call, dict[str, Any]]:
    """The call that takes the best number of maps at a time."""
    times = {}
    for maps in sorted({min(maps, most) for maps in AT_A_TIME} | {most}):
        call = make(maps)
        call(given)
        times[maps] = statistics.median(milliseconds(call, [given], work.device, min(0.05, work.scale.seconds)))
    best = min(times, key=lambda maps: times[maps])
    return make(best), {"maps_at_a_time": best}


def unfused(work: Workload, batches: Sequence[Inputs]) -> Prepared:
    given = _sides(work, batches, concatenated=False)
    call, notes = _quickest(lambda n: partial(_decomposed, work, _least, n), given[0], work, batches[0].pages.shape[1])
    return call, given, notes


def compiled(work: Workload, batches: Sequence[Inputs]) -> Prepared:
    if work.device.type != "cuda":
        raise Missing("torch.compile is tried on a GPU only")
    given, least = _sides(work, batches, concatenated=False), torch.compile(_least, dynamic=False)
    return partial(_decomposed, work, least, batches[0].pages.shape[1]), given, {}


def product(work: Workload, batches: Sequence[Inputs]) -> Prepared:
    given = _sides(work, batches, concatenated=True)
    call, notes = _quickest(lambda n: partial(_concatenated, work, n), given[0], work, batches[0].pages.shape[1])
    return call, given, notes
