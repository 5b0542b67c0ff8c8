"""Features as the torch backend stores them: rows whose products are squared distances.

|q - g|^2 = |q|^2 + |g|^2 - 2 q.g = [-2q, 1, |q|^2] . [g, |g|^2, 1]. Both sides are centred, which keeps the terms
small, and scaled by the square root of their level's weight. In bfloat16 a squared norm takes three columns, whose sum
is as accurate as float32: products are accumulated in float32, and only the distance is rounded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..pyramid import Layout, Size, bilinear_taps, make_layout, upsample_bilinear

ROOM = 16  # candidates for each row and each of the k nearest that are kept before they are filtered
NORM_COLUMNS = {torch.float32: 1, torch.bfloat16: 3}


@dataclass(frozen=True)
class Plan:
    """A pool, the order in which its pixels are stored, and the precision in which they are scanned."""

    pool: Sequence[Tensor]  # levels [slots, H*W, C]
    sizes: Sequence[Size]
    weights: Sequence[float]
    bilinear: bool
    layout: Layout
    orders: list[Tensor]  # for every level: int64 [rows], the gallery's pixels in the layout's order
    query_cells: Tensor  # int64 [cells]: the query's cells in the order of the layout's tiles
    query_orders: list[Tensor]  # for every level: int64 [rows], the query's pixels
    dtypes: list[torch.dtype]  # of every level in the scan: float32 or bfloat16
    centres: list[Tensor]  # float32 [C] of each level
    taps: list[tuple[Tensor, Tensor]]  # of levels 1.., if interpolated: see `bilinear_taps`

    @property
    def pixels(self) -> int:
        """The number of finest pixels, P."""
        return self.pool[0].shape[1]

    @property
    def rows(self) -> list[int]:
        """The rows of each level of a gallery map. The finest repeats some pixels if cells differ in size."""
        return [len(order) for order in self.orders]

    @property
    def device(self) -> torch.device:
        """The pool's device."""
        return self.pool[0].device

    def columns(self, level: int) -> int:
        """Return the columns of a level's rows: features and norms."""
        return self.pool[level].shape[2] + 2 * NORM_COLUMNS[self.dtypes[level]]


def make_plan(
    pool: Sequence[Tensor],
    sizes: Sequence[Size],
    weights: Sequence[float],
    bilinear: bool,
    finest: torch.dtype = torch.float32,
    coarse: torch.dtype = torch.float32,
) -> Plan:
    """Return a plan for a pool, centred on the means of its first map, which its other maps resemble."""
    device = pool[0].device
    layout = make_layout(sizes, bilinear).to(device)
    cells = torch.cat(layout.tiles)
    rows = layout.rows or [torch.arange(h * w, device=device) for h, w in sizes[1:]]
    orders = [layout.members.flatten(), *rows]
    query_orders = [layout.members[:, cells].flatten(), *rows]
    for level, places in enumerate(layout.places, 1):
        # A level with one pixel for each cell is stored in the order of cells; the others are looked up.
        if len(orders[level]) == len(cells):
            query_orders[level] = orders[level][places[cells]]
    pool = [level.contiguous() for level in pool]
    centres = [level[:1].float().mean((0, 1)).nan_to_num(0.0, 0.0, 0.0) for level in pool]  # any centre is correct
    taps = [bilinear_taps(size, sizes[0]) for size in sizes[1:]] if bilinear else []
    taps = [(pixels.to(device), weights.to(device)) for pixels, weights in taps]
    # Interpolation would spread the rounding of coarse products: they stay in float32.
    dtypes = [finest] + [torch.float32 if bilinear else coarse] * (len(pool) - 1)
    return Plan(pool, sizes, weights, bilinear, layout, orders, cells, query_orders, dtypes, centres, taps)


@dataclass(frozen=True)
class Query:
    """One query, as given and as rows to be scanned."""

    levels: list[Tensor]  # [H*W, C], as given
    rows: list[Tensor]  # [rows, columns] of each level: see the module's docstring
    norms: Tensor  # float32 [2, rows of the finest level]: squared norms over all levels, and those of rounding errors
    coarse_norms: Tensor  # float32 [P]: of the interpolated levels, in the order of rows; otherwise empty

    @staticmethod
    def bytes_of(plan: Plan, k: int) -> int:
        """Return the bytes that a query and its candidates take while it is searched."""
        features = sum(len(o) * plan.columns(i) * plan.dtypes[i].itemsize for i, o in enumerate(plan.query_orders))
        return features + plan.layout.members.numel() * (4 * k + 100 + 40 * ROOM * k)


def prepare_query(plan: Plan, levels: Sequence[Tensor]) -> Query:
    """Prepare a query's levels [H*W, C]: cells in the order of the plan's tiles, planes outermost."""
    layout, cells = plan.layout, plan.query_cells
    prepared = []
    norms = torch.zeros(2, layout.planes, layout.cells, device=plan.device)
    coarse_norms = torch.zeros(plan.pixels if plan.bilinear else 0, device=plan.device)
    for number, (level, order) in enumerate(zip(levels, plan.query_orders, strict=True)):
        out = torch.empty(len(order), plan.columns(number), dtype=plan.dtypes[number], device=plan.device)
        of_level, moved = write_rows(plan, number, level.index_select(0, order), out, query=True)
        prepared.append(out)
        if number and plan.bilinear:
            of_level = interpolated_norms(plan, number, out, query=True)[cells]
            coarse_norms += of_level
        elif number and len(order) != len(cells):
            places = layout.places[number - 1][cells]
            of_level, moved = of_level[places], moved[places]
        norms[0] += of_level.view(-1, layout.cells)
        if plan.dtypes[number] == torch.bfloat16:
            norms[1] += moved.view(-1, layout.cells)
    return Query(list(levels), prepared, norms.flatten(1), coarse_norms)


def write_rows(plan: Plan, level: int, features: Tensor, out: Tensor, query: bool = False) -> tuple[Tensor, Tensor]:
    """Write features [..., C] into `out` as rows [..., columns], of the query's side or the gallery's.

    Returns squared norms [...], and the squared norms [...] of what rounding to the rows' type took away.
    """
    channels = features.shape[-1]
    factor = plan.weights[level] ** 0.5 * (-2 if query else 1)
    target = out[..., :channels]
    centred = target if out.dtype == torch.float32 else torch.empty(features.shape, device=out.device)
    # One operation at a time: operations that also convert are several times slower.
    centred.copy_(features)
    centred.sub_(plan.centres[level])
    if query:  # otherwise oneDNN's bfloat16 products spill a NaN into the row before it
        centred.nan_to_num_(0.0, 0.0, 0.0)
    if factor != 1:
        centred.mul_(factor)
    moved = torch.zeros(features.shape[:-1], device=out.device)
    if centred is not target:
        target.copy_(centred)
        rounded = target.float()
        moved = torch.linalg.vector_norm(centred.sub_(rounded), dim=-1).square_()
        centred = rounded  # norms are those of the rounded features
    norms = torch.linalg.vector_norm(centred, dim=-1).square_()
    if query:
        norms, moved = norms / 4, moved / 4
    parts = NORM_COLUMNS[out.dtype]
    first = channels + (parts if query else 0)
    rest = norms
    for column in range(first, first + parts):
        out[..., column] = rest
        rest = rest - out[..., column]
    ones = channels + (0 if query else parts)
    out[..., ones : ones + parts] = 1.0
    return norms, moved


def interpolated_norms(plan: Plan, level: int, rows: Tensor, query: bool = False) -> Tensor:
    """Return the squared norms [P] of a coarse level's rows [H*W, columns] after interpolation."""
    features = rows[:, : plan.pool[level].shape[2]].contiguous()
    norms = torch.linalg.vector_norm(upsample_bilinear(features, plan.sizes[level], plan.sizes[0]), dim=1).square_()
    return norms / 4 if query else norms
