"""The nearest cells that a scan comes upon, and their exact distances."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .torch_features import Plan, Query

BLOCK = 64  # columns whose minimum is looked at before they are
SPARE = 32  # cells beyond k that are kept of those that rounding cannot tell apart
CROWDED = 4  # candidates per row that is improved beyond which they are counted
GATHER = 1 << 20  # feature values of a level gathered at a time when candidates are measured

Allowance = Callable[[Tensor, Tensor], Tensor]
Kept = tuple[Tensor, Tensor, Tensor]  # rows, ids and distances of candidates, [n] each


class Limits:
    """For every row of a query, an upper bound of the distance of its k-th nearest pixel, which threads share.

    A thread writes only its own line. One that reads another's too early loses time, and nothing else.
    """

    def __init__(self, norms: Tensor, threads: int, allow: Allowance) -> None:
        """`norms` [2, rows] as a Query has them."""
        self.norms, self.allow = norms, allow
        self.kth = norms.new_full((threads, norms.shape[1]), math.inf)
        self.largest = norms.new_zeros(threads, 2, 1)  # squared norms of the gallery's rows that a thread has seen

    def within(self, rows: slice, kth: Tensor | None = None) -> Tensor:
        """The scanned distances [n] of some rows up to which a pixel may be one of the k nearest.

        `kth` bounds the k-th distance from above, as what the threads have noted does.
        """
        noted = self.kth[:, rows].amin(0)
        kth = noted if kth is None else torch.minimum(noted, kth)
        return self.allow(kth, self.norms[:, rows] + self.largest.amax(0))


class Found:
    """The candidates of one query that one thread has come upon: cells that may hold one of the k nearest pixels."""

    def __init__(self, limits: Limits, thread: int, k: int) -> None:
        self.limits, self.k = limits, k
        rows, device = limits.norms.shape[1], limits.norms.device
        self.kth, self.largest = limits.kth[thread], limits.largest[thread]
        self.best = torch.full((rows, k), math.inf, device=device)  # the least distances of cells so far, ascending
        self.limit = torch.full((rows,), math.inf, device=device)  # candidates lie within it
        self.norms = limits.norms
        self.kept: list[Kept] = []
        self.size, self.room = 0, 8 * (k + SPARE) * rows
        self.crowd: Crowd | None = None

    def begin(self, largest: Tensor) -> None:
        """Prepare for maps whose squared norms are at most `largest` [2], and learn what other threads have found."""
        torch.maximum(self.largest, largest[:, None], out=self.largest)
        self.limit = self.limits.within(slice(None))
        self.norms = self.limits.norms + self.limits.largest.amax(0)

    def lower(self, kth: Tensor) -> None:
        """Take note of upper bounds [rows] of the k-th distances."""
        torch.minimum(self.kth, kth, out=self.kth)
        torch.minimum(self.limit, self.limits.allow(self.kth, self.norms), out=self.limit)

    def offer(self, rows: Tensor, distances: Tensor, ids: Tensor, lowest: int) -> None:
        """Keep what may be among the k nearest of rows [n]: distances [n, s] of cells whose ids are [s].

        `distances` has columns of infinity up to a multiple of BLOCK; no id is below `lowest`. Where rounding cannot
        tell many cells apart, those of the lowest ids are kept, k + SPARE at most.
        """
        blocks = distances.unflatten(1, (-1, BLOCK))
        lows = blocks.amin(2)  # [n, blocks]
        low = lows.amin(1)
        hit = (low <= self.limit.index_select(0, rows)).nonzero().squeeze(1)
        if not len(hit):
            return
        rows, low = rows.index_select(0, hit), low.index_select(0, hit)
        clearly = None
        if self.crowd is not None:
            clearly = self.limits.allow(low, self.norms.index_select(1, rows)) < self.kth.index_select(0, rows)
            here = self.crowd.admits(rows, clearly, lowest).nonzero().squeeze(1)
            hit, rows, low, clearly = (x.index_select(0, here) for x in (hit, rows, low, clearly))
        limit = self._improve(rows, low, distances, hit, len(ids))
        i, block = (lows.index_select(0, hit) <= limit[:, None]).nonzero().unbind(1)
        at = hit.index_select(0, i) * lows.shape[1] + block
        nearby = blocks.flatten(0, 1).index_select(0, at) <= limit.index_select(0, i)[:, None]
        which, column = nearby.nonzero().unbind(1)
        i, at = i.index_select(0, which), at.index_select(0, which)
        column += block.index_select(0, which) * BLOCK
        if self.crowd is None and len(i) > CROWDED * len(hit):
            self.crowd, clearly = Crowd(len(self.kth), self.k + SPARE, i.device), torch.ones_like(hit, dtype=torch.bool)
        if self.crowd is not None and clearly is not None:
            keep = self.crowd.take(rows, clearly, i, ids.index_select(0, column), lowest).nonzero().squeeze(1)
            i, at, column = (x.index_select(0, keep) for x in (i, at, column))
        kept = distances.flatten().index_select(0, hit.index_select(0, i) * distances.shape[1] + column)
        self._keep((rows.index_select(0, i), ids.index_select(0, column), kept))

    def _improve(self, rows: Tensor, low: Tensor, distances: Tensor, hit: Tensor, count: int) -> Tensor:
        """Update what is known of rows [n] by distances[hit], whose least are `low`; returns the rows' limits [n]."""
        if self.k == 1:
            best = torch.minimum(self.best[:, 0].index_select(0, rows), low)[:, None]
        else:
            nearest = distances.index_select(0, hit)[:, :count].topk(min(self.k, count), largest=False).values
            best = torch.cat([self.best.index_select(0, rows), nearest], 1).topk(self.k, largest=False).values
        self.best.index_copy_(0, rows, best)
        kth = torch.minimum(self.kth.index_select(0, rows), best[:, -1])
        self.kth.index_copy_(0, rows, kth)
        limit = self.limits.allow(kth, self.norms.index_select(1, rows))
        limit = torch.minimum(limit, self.limit.index_select(0, rows)).clamp_(max=torch.finfo(torch.float32).max)
        self.limit.index_copy_(0, rows, limit)
        return limit

    def _keep(self, kept: Kept) -> None:
        self.kept.append(kept)
        self.size += len(kept[0])
        if self.size > self.room:
            self.kept = [within(self.kept, self.limit)]
            self.size = len(self.kept[0][0])
            self.room = max(self.room, 2 * self.size)


class Crowd:
    """Keeps count of candidates where there are many that rounding cannot tell apart, as in a plain background."""

    def __init__(self, rows: int, room: int, device: torch.device) -> None:
        """`room` is how many are kept for each of the rows."""
        self.room = room
        self.count = torch.zeros(rows, dtype=torch.int64, device=device)
        self.last = torch.full((rows,), -1, dtype=torch.int64, device=device)  # the highest id that is kept

    def admits(self, rows: Tensor, clearly: Tensor, lowest: int) -> Tensor:
        """Whether rows [n] have room: bool. `clearly` says which are about to find something clearly nearer."""
        return clearly | (self.count[rows] < self.room) | (self.last[rows] > lowest)

    def take(self, rows: Tensor, clearly: Tensor, i: Tensor, ids: Tensor, lowest: int) -> Tensor:
        """Which of the candidates ids [m] to keep for rows[i] [m], which ascend: bool [m]."""
        self.count[rows[clearly]], self.last[rows[clearly]] = 0, -1
        each = torch.arange(len(rows), device=rows.device)
        rank = torch.arange(len(i), device=rows.device) - torch.searchsorted(i, each)[i]
        allowed = self.room - torch.where(self.last[rows] > lowest, 0, self.count[rows])
        keep = rank < allowed[i]
        self.count.index_add_(0, rows[i[keep]], torch.ones_like(i[keep]))
        self.last.scatter_reduce_(0, rows[i[keep]], ids[keep], "amax")
        return keep


def within(kept: Sequence[Kept], limit: Tensor, first: int = 0) -> Kept:
    """The candidates for rows from `first` on that are within their limits [rows]."""
    rows, ids, distances = (torch.cat(parts) for parts in zip(*kept, strict=True))
    here = ((rows >= first) & (rows < first + len(limit))).nonzero().squeeze(1)
    here = here[distances[here] <= limit[rows[here] - first]]
    return rows[here], ids[here], distances[here]


def candidates(found: Sequence[Found], first: int, last: int) -> tuple[Tensor, Tensor]:
    """What several threads have kept for rows first..last-1 of one query, and is within its limits: rows, ids [n]."""
    limits, kept = found[0].limits, [one for f in found for one in f.kept]
    if not kept:  # nothing finite
        return (torch.empty(0, dtype=torch.int64, device=limits.norms.device),) * 2
    kth = torch.cat([f.best[first:last] for f in found], 1).topk(found[0].k, largest=False).values[:, -1]
    rows, ids, _ = within(kept, limits.within(slice(first, last), kth), first)
    return rows, ids


def measure(
    plan: Plan, query: Query, slots: Tensor, rows: Tensor, ids: Tensor, distances: Tensor, matches: Tensor
) -> None:
    """Write the k nearest pixels in candidate cells, measured as float32 differences, which do not cancel.

    Args:
        slots: int64 [K], the query's page.
        rows: int64 [n], of the prepared query, ascending or not; all candidates of a row must be there.
        ids: int64 [n], position in the page * cells + cell.
        distances: float32 [P, k], of which the rows' pixels are written.
        matches: int64 [P, k]. Equal distances go to the lowest match.
    """
    layout, far = plan.layout, torch.iinfo(torch.int64).max
    position, cell = ids // layout.cells, ids % layout.cells
    pixels = layout.members[:, cell]  # [planes, n]
    found = position * plan.pixels + pixels
    d = torch.empty(pixels.shape, device=plan.device)
    step = max(1, GATHER // max(level.shape[2] for level in plan.pool) // layout.planes)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        d[:, part] = _differences(plan, query, rows[part], slots[position[part]], cell[part])
    raster = layout.members[:, plan.query_cells].flatten()  # of a row, its pixel
    where = raster[rows].expand_as(pixels).flatten()
    d, found = d.flatten(), found.flatten()
    written = torch.zeros(plan.pixels, dtype=torch.bool, device=plan.device)
    written[where] = True
    for i in range(distances.shape[1]):
        least = torch.full((plan.pixels,), math.inf, device=plan.device).scatter_reduce_(0, where, d, "amin")
        at = torch.where(d == least[where], found, far)
        match = torch.full((plan.pixels,), far, device=plan.device).scatter_reduce_(0, where, at, "amin")
        d.masked_fill_(found == match[where], math.inf)  # also where a pixel stands twice in its cell
        distances[written, i] = least[written]
        matches[written, i] = match.masked_fill_(match == far, 0)[written]


def _differences(plan: Plan, query: Query, rows: Tensor, slots: Tensor, cell: Tensor) -> Tensor:
    """Distances of query rows [n] to the pixels of cells [n] of slots [n]: float32 [planes, n]."""
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
    """Sums of features [rows, C] at rows [4, n] by weights [4, n]: float32 [n, C]."""
    total = torch.zeros(rows.shape[1], features.shape[1], device=features.device)
    for row, weight in zip(rows, weights, strict=True):
        total.addcmul_(features.index_select(0, row).float(), weight[:, None])
    return total
