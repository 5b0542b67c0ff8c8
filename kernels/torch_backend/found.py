"""The candidates of a scan, and their exact distances."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .features import ROOM, Plan, Query

BLOCK = 64  # columns whose minimum is compared before they are
SPARE = 32  # cells beyond k that are kept of a crowd that rounding cannot tell apart
CROWDED = 8  # candidates per row, in multiples of k, from which a crowd is thinned out
GATHER = 1 << 20  # feature values of a level gathered at a time when candidates are measured

Allowance = Callable[[Tensor, Tensor], Tensor]
Kept = tuple[Tensor, Tensor, Tensor]  # rows, ids and distances of candidates, [n] each


class Limits:
    """Upper bounds of the distance of each query row's k-th nearest pixel, shared by threads.

    A thread writes only its own line. Reading an outdated line of another costs time, but changes no result.
    """

    def __init__(self, norms: Tensor, threads: int, allow: Allowance) -> None:
        """Start without bounds; `norms` [2, rows] are a Query's."""
        self.norms, self.allow = norms, allow
        self.kth = norms.new_full((threads, norms.shape[1]), math.inf)
        self.largest = norms.new_zeros(threads, 2, 1)  # squared norms of the gallery's rows that a thread has seen

    def of(self, rows: slice, kth: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return bounds [n] of rows' k-th distances, and the scanned distances [n] up to which a pixel may be nearer.

        The bound is the least that threads have noted, or `kth` if that is lower.
        """
        noted = self.kth[:, rows].amin(0)
        kth = noted if kth is None else torch.minimum(noted, kth)
        limit = self.allow(kth, self.norms[:, rows] + self.largest.amax(0))
        return kth, limit.clamp_(max=torch.finfo(torch.float32).max)


class Found:
    """The candidates of one query that one thread found: cells that may hold one of the k nearest pixels.

    A cell's id is the match of its first pixel, so that ties can go to the lowest.
    """

    def __init__(self, limits: Limits, thread: int, k: int) -> None:
        self.limits, self.k = limits, k
        rows, device = limits.norms.shape[1], limits.norms.device
        self.kth, self.largest = limits.kth[thread], limits.largest[thread]
        self.best = torch.full((rows, k), math.inf, device=device)  # the least distances of cells so far, ascending
        self.limit = self.best.new_empty(rows)  # the largest scanned distance of a candidate
        self.blind = True  # whether some rows have no limit yet
        self.lowest = 0  # the least id that may still come
        self.crowd: Crowd | None = None
        self.sifted: list[Kept] = []  # since `settle`
        self.kept: list[Kept] = []
        self.size, self.room = 0, ROOM * k * rows

    def begin(self, largest: Tensor, lowest: int) -> None:
        """Prepare for maps whose squared norms are at most `largest` [2] and whose cells' ids are at least `lowest`."""
        torch.maximum(self.largest, largest[:, None], out=self.largest)
        self.lowest = lowest
        self._refresh()

    def _refresh(self) -> None:
        """Update the limits from the bounds of all threads."""
        kth, limit = self.limits.of(slice(None))
        self.blind = bool(kth.isinf().any())
        self.limit = limit if self.crowd is None else self.crowd.limit(kth, limit, self.lowest)

    def lower(self, kth: Tensor, rows: Tensor | slice = slice(None)) -> None:
        """Lower the bounds of rows' k-th distances to `kth` [n]."""
        self.kth[rows] = torch.minimum(self.kth[rows], kth)
        self._refresh()

    def sift(self, rows: Tensor, distances: Tensor, ids: Tensor) -> None:
        """Keep the cells that may be among the k nearest of rows [n], given distances [n, s] and the cells' ids [s].

        `distances` is padded with infinity to a multiple of BLOCK columns.
        """
        if self.blind and len(ids) >= self.k:
            least = distances.amin(1, keepdim=True) if self.k == 1 else distances.topk(self.k, largest=False).values
            self.lower(least[:, -1], rows)
        blocks = distances.unflatten(1, (-1, BLOCK))
        limit = self.limit.index_select(0, rows)
        i, block = (blocks.amin(2) <= limit[:, None]).nonzero().unbind(1)
        at = i * blocks.shape[1] + block
        nearby = blocks.flatten(0, 1).index_select(0, at) <= limit.index_select(0, i)[:, None]
        which, column = nearby.nonzero().unbind(1)
        column += at.index_select(0, which) * BLOCK  # in all of `distances`
        i = i.index_select(0, which)
        values = distances.flatten().index_select(0, column)
        column -= i * distances.shape[1]
        found = rows.index_select(0, i), ids.index_select(0, column), values
        self.sifted.append(found if len(i) <= CROWDED * self.k * len(rows) else self._thin_out(found))

    def _thin_out(self, found: Kept) -> Kept:
        """Reduce many candidates to those within the limits they lower themselves, and a crowd to its lowest ids."""
        rows, _, values = found
        self.lower(_least(rows, values, len(self.kth), self.k)[:, -1])
        found = within([found], self.limits.of(slice(None))[1])
        if len(found[0]) > CROWDED * self.k * len(rows.unique()):
            self.crowd = self.crowd or Crowd(len(self.kth), self.k + SPARE, rows.device)
            found = self.crowd.admit(found, self.limits, self.lowest)
            self._refresh()
        return found

    def settle(self) -> None:
        """Update bounds and candidates with the cells sifted since the last call."""
        if not self.sifted:
            return
        rows, ids, values = (torch.cat(parts) for parts in zip(*self.sifted, strict=True))
        self.sifted = []
        if self.k == 1:
            self.best[:, 0].scatter_reduce_(0, rows, values, "amin")
        else:
            self.best = torch.cat([self.best, _least(rows, values, *self.best.shape)], 1)
            self.best = self.best.topk(self.k, largest=False).values
        self.kept.append((rows, ids, values))
        self.size += len(rows)
        self.lower(self.best[:, -1])
        if self.size > self.room:
            self.kept = [within(self.kept, self.limits.of(slice(None))[1])]
            self.size = len(self.kept[0][0])
            self.room = max(self.room, 2 * self.size)


class Crowd:
    """Keeps the cells of the lowest ids where rounding cannot tell many apart, as in a plain background."""

    def __init__(self, rows: int, room: int, device: torch.device) -> None:
        """Start empty, with room for `room` cells of each row."""
        self.room = room
        self.count = torch.zeros(rows, dtype=torch.int64, device=device)
        self.last = torch.full((rows,), -1, dtype=torch.int64, device=device)  # the highest id kept
        self.kth = torch.full(
            (rows,), math.inf, device=device
        )  # the bound of the k-th distance when the first was kept

    def limit(self, kth: Tensor, limit: Tensor, lowest: int) -> Tensor:
        """Return the limits [rows]; a full row admits only cells that are clearly nearer than the k-th."""
        fell = limit < self.kth  # the cells kept so far are beyond the limit now
        self.count[fell], self.last[fell], self.kth[fell] = 0, -1, kth[fell]
        full = (self.count >= self.room) & (self.last <= lowest)
        return torch.where(full, 2 * kth - limit, limit)

    def admit(self, found: Kept, limits: Limits, lowest: int) -> Kept:
        """Return the candidates for which there is room, and all that are clearly nearer."""
        order = found[1].argsort()
        order = order[found[0][order].argsort(stable=True)]
        rows, ids, values = found = found[0][order], found[1][order], found[2][order]
        kth, limit = limits.of(slice(None))
        self.limit(kth, limit, lowest)
        rank = torch.arange(len(rows), device=rows.device) - torch.searchsorted(rows, rows)
        crowded = rank >= self.room - torch.where(self.last > lowest, 0, self.count)[rows]
        # Cells clearly nearer than the k-th are no crowd: they are fewer than k.
        nearer = limits.allow(values, (limits.norms + limits.largest.amax(0))[:, rows]) < kth[rows]
        keep = (nearer | ~crowded).nonzero().squeeze(1)
        rows, ids, values = (x[keep] for x in found)
        self.count.index_add_(0, rows, torch.ones_like(rows))
        self.last.scatter_reduce_(0, rows, ids, "amax")
        return rows, ids, values


def _least(rows: Tensor, values: Tensor, count: int, k: int) -> Tensor:
    """Return the k least values of each of `count` rows, ascending: [count, k], infinity where there are fewer."""
    order = values.argsort()
    order = order[rows[order].argsort(stable=True)]
    rows, values = rows[order], values[order]
    rank = torch.arange(len(rows), device=rows.device) - torch.searchsorted(rows, rows)
    least = values.new_full((count, k), math.inf)
    some = rank < k
    least[rows[some], rank[some]] = values[some]
    return least


def within(kept: Sequence[Kept], limit: Tensor, first: int = 0) -> Kept:
    """Return the candidates of rows `first`.. that are within their limits [rows]."""
    rows, ids, distances = (torch.cat(parts) for parts in zip(*kept, strict=True))
    here = ((rows >= first) & (rows < first + len(limit))).nonzero().squeeze(1)
    here = here[distances[here] <= limit[rows[here] - first]]
    return rows[here], ids[here], distances[here]


def candidates(found: Sequence[Found], first: int, last: int) -> tuple[Tensor, Tensor]:
    """Return the candidates of all threads for rows first..last-1 of a query that are within limits: rows, ids [n]."""
    limits, kept = found[0].limits, [one for f in found for one in f.kept]
    if not kept:  # no finite distance was found
        return (torch.empty(0, dtype=torch.int64, device=limits.norms.device),) * 2
    kth = torch.cat([f.best[first:last] for f in found], 1).topk(found[0].k, largest=False).values[:, -1]
    rows, ids, _ = within(kept, limits.of(slice(first, last), kth)[1], first)
    return rows, ids


def measure(
    plan: Plan, query: Query, slots: Tensor, rows: Tensor, ids: Tensor, distances: Tensor, matches: Tensor
) -> None:
    """Measure the pixels of candidate cells as float32 differences, which do not cancel, and write the k nearest.

    Args:
        slots: int64 [K], the query's page.
        rows: int64 [n], of the prepared query, in any order; all candidates of a row must be included.
        ids: int64 [n], the match of each cell's first pixel: position in the page * P + pixel.
        distances: float32 [P, k]; the rows' pixels are written.
        matches: int64 [P, k], likewise. Equal distances go to the lowest match.
    """
    layout, far = plan.layout, torch.iinfo(torch.int64).max
    position, cell = ids // plan.pixels, layout.cell_of[ids % plan.pixels]
    pixels = layout.members[:, cell]  # [planes, n]
    found = position * plan.pixels + pixels
    d = torch.empty(pixels.shape, device=plan.device)
    step = max(1, GATHER // max(level.shape[2] for level in plan.pool) // layout.planes)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        d[:, part] = _differences(plan, query, rows[part], slots[position[part]], cell[part])
    raster = layout.members[:, plan.query_cells].flatten()  # [rows]: the pixel of each row
    where = raster[rows].expand_as(pixels).flatten()
    d, found = d.flatten(), found.flatten()
    written = torch.zeros(plan.pixels, dtype=torch.bool, device=plan.device)
    written[where] = True
    for i in range(distances.shape[1]):
        least = torch.full((plan.pixels,), math.inf, device=plan.device).scatter_reduce_(0, where, d, "amin")
        at = torch.where(d == least[where], found, far)
        match = torch.full((plan.pixels,), far, device=plan.device).scatter_reduce_(0, where, at, "amin")
        d.masked_fill_(found == match[where], math.inf)  # also where a cell repeats the pixel
        distances[written, i] = least[written]
        matches[written, i] = match.masked_fill_(match == far, 0)[written]


def _differences(plan: Plan, query: Query, rows: Tensor, slots: Tensor, cell: Tensor) -> Tensor:
    """Return the distances of query rows [n] to the pixels of cells [n] in slots [n]: float32 [planes, n]."""
    layout = plan.layout
    query_cell = plan.query_cells[rows % layout.cells]
    query_pixel = layout.members[:, plan.query_cells].flatten()[rows]
    pixels = layout.members[:, cell]
    total = torch.zeros(pixels.shape, device=plan.device)
    for level, (q, pool, w) in enumerate(zip(query.levels, plan.pool, plan.weights, strict=True)):
        gallery = pool.flatten(0, 1)
        first = slots * pool.shape[1]
        if level and plan.bilinear:
            places, taps = plan.taps[level - 1]
            mine = _interpolate(q, places[:, query_pixel], taps[:, query_pixel])
            theirs = _interpolate(gallery, first + places[:, pixels[0]], taps[:, pixels[0]])
        elif level:
            order, under = layout.rows[level - 1], layout.places[level - 1]
            mine = q.index_select(0, order[under[query_cell]]).float()
            theirs = gallery.index_select(0, first + order[under[cell]]).float()
        else:
            mine = q.index_select(0, query_pixel).float()
            theirs = gallery.index_select(0, (first + pixels).flatten()).float().unflatten(0, pixels.shape)
        total.add_(theirs.sub_(mine).square_().sum(-1), alpha=w)
    return total


def _interpolate(features: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Return the sums of features [rows, C] at `rows` [4, n], weighted by [4, n]: float32 [n, C]."""
    total = torch.zeros(rows.shape[1], features.shape[1], device=features.device)
    for row, weight in zip(rows, weights, strict=True):
        total.addcmul_(features.index_select(0, row).float(), weight[:, None])
    return total
