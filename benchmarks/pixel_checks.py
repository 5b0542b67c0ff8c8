"""Verifies a contender against exact distances, in float64, of sampled query pixels to all gallery pixels.

A distance may differ from the exact one by `rtol` of it plus `atol` of the scale: the squared norm of the query pixel
plus the largest one of a gallery pixel, since the expanded form takes the difference of such norms. The exact distance
of the match must be as close, so a match may be another pixel than the nearest only if both are equally near.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from spade_index.benchmarks.harness import WrongResult
from spade_index.benchmarks.pixel_peers import PER_LEVEL, Contender, Found, Search
from spade_index.kernels import nearest_pixels
from spade_index.kernels.pyramid import Size, nearest_index, upsample_bilinear


@dataclass(frozen=True)
class Tolerance:
    """The permitted error of a distance."""

    rtol: float
    atol: float  # of the scale


TOLERANCES = {False: Tolerance(1e-4, 1e-6), True: Tolerance(1e-2, 1e-3)}  # by whether a contender may round


class Oracle:
    """The exact result of a search for some query pixels.

    rows: int64 [n], the query pixels. nearest: float64 [n, k], ascending. pairs: float64 [n, K*P], the distances that
    matches are judged by: those of level 0 in `per-level`. scale: float64 [n].
    """

    def __init__(self, search: Search, rows: Tensor) -> None:
        self.search, self.rows = search, rows
        self.per_level = search.mode == PER_LEVEL
        self.pairs, self.nearest, self.scale = (self._of_levels if self.per_level else self._concatenated)()
        self.best = self.pairs.topk(search.k, largest=False).values if self.per_level else self.nearest  # [n, k]

    def check(self, found: Found, fast: bool = False) -> dict[str, float]:
        """Compare (distances [n, k], matches [n, k]) of the sampled pixels with the exact ones.

        Returns the largest relative error of a distance, and the share of pixels whose match is a nearest one. Raises
        WrongResult.
        """
        distances, matches = found
        shape = (len(self.rows), self.search.k)
        if tuple(distances.shape) != shape or tuple(matches.shape) != shape:
            raise WrongResult(f"found {list(distances.shape)} and {list(matches.shape)}, not {list(shape)}")
        if matches.min() < 0 or matches.max() >= self.pairs.shape[1]:
            raise WrongResult(f"matches {int(matches.min())}..{int(matches.max())} of {self.pairs.shape[1]} pixels")
        if any(len(row.unique()) < len(row) for row in matches):
            raise WrongResult("a gallery pixel was found twice")
        tolerance = TOLERANCES[fast]
        there = self.pairs.gather(1, matches)  # [n, k]
        for name, values, exact in (("distances", distances, self.nearest), ("matches", there, self.best)):
            error = (values.double() - exact).abs()
            over = error / (tolerance.rtol * exact + tolerance.atol * self.scale[:, None])
            if not bool((over <= 1).all()):  # NaN is not, either
                raise WrongResult(f"{name} are {over.max():.3g} times as far off as is allowed")
        relative = (distances.double() - self.nearest).abs() / (self.nearest + 1e-6 * self.scale[:, None])
        exact_matches = (there[:, 0] <= self.best[:, 0] * (1 + 1e-9)).double().mean()
        return {"distance_error": float(relative.max()), "exact_matches": float(exact_matches)}

    def _concatenated(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return pairs, nearest and scale."""
        search = self.search
        q = self._map([level[0] for level in search.query])[self.rows]
        pairs, norms = [], []
        for slot in range(search.maps):
            g = self._map([level[slot] for level in search.pool])
            norms.append(g.square().sum(1).amax())
            pairs.append(_square_distances(q, g))
        both = torch.cat(pairs, 1)
        return both, both.topk(search.k, largest=False).values, q.square().sum(1) + torch.stack(norms).amax()

    def _map(self, levels: list[Tensor]) -> Tensor:
        """Return levels [H*W, C] of one image upsampled, weighted and concatenated: float64 [P, D]."""
        search, up = self.search, []
        for level, size, weight in zip(levels, search.sizes, search.weights, strict=True):
            level = level.double() * weight**0.5
            if search.mode == "concat-bilinear":
                up.append(upsample_bilinear(level, size, search.sizes[0]))
            else:
                up.append(level[nearest_index(size, search.sizes[0]).to(level.device)])
        return torch.cat(up, 1)

    def _of_levels(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the same; a coarse level needs all its pixels, because their distances are interpolated."""
        search = self.search
        pairs: list[Tensor] = []
        total = torch.zeros(len(self.rows), search.k, dtype=torch.float64, device=search.device)
        scale = 0.0
        for number, (q, pool) in enumerate(zip(search.query, search.pool, strict=True)):
            q, size = q[0].double(), search.sizes[number]
            share = search.weights[number] / len(search.query)
            if number == 0:
                q = q[self.rows]
                pairs = [_square_distances(q, g.double()) for g in pool]
                nearest = torch.cat(pairs, 1).topk(search.k, largest=False).values
            else:
                few = min(search.k, pool.shape[1])
                each = [_square_distances(q, g.double()).topk(few, largest=False).values for g in pool]
                nearest = torch.cat(each, 1).topk(search.k, largest=False).values
                nearest = upsample_bilinear(nearest, size, search.sizes[0])[self.rows]
            total += share * nearest
            norms = max(float(g.double().square().sum(1).amax()) for g in pool)
            scale += share * (float(q.square().sum(1).amax()) + norms)
        return torch.cat(pairs, 1), total, torch.full_like(total[:, 0], scale)


def check_small(contender: Contender, k: int, mode: str, device: torch.device) -> None:
    """Compare a contender with the reference backend on small maps of odd and of nested sizes; raises WrongResult."""
    for sizes in ([(9, 7), (5, 4), (3, 3)], [(12, 8), (6, 4), (3, 4)], [(7, 11)]):
        whole = small_search(sizes, k, mode, device)
        rows = torch.arange(whole.pixels, device=device)
        search = contender.takes(whole, whole.maps, rows)
        oracle = Oracle(search, rows if search.rows is None else search.rows)
        pages = torch.arange(search.maps, device=device)[None]
        exact, _ = nearest_pixels(
            *(search.query, search.pool, pages, k),
            sizes=search.sizes,
            weights=search.weights,
            mode=search.mode,
            backend="reference",
        )
        off = (exact[0, oracle.rows].double() - oracle.nearest).abs() / (oracle.nearest + oracle.scale[:, None])
        if not off.max() < 1e-6:  # the reference returns float32
            raise WrongResult("the exact distances of the check are not those of the reference backend")
        oracle.check(found_at(oracle.rows, search, contender.run(search, contender.prepare(search))), contender.fast)


def small_search(sizes: list[Size], k: int, mode: str, device: torch.device) -> Search:
    """Return a search of random features in three maps of these sizes."""
    random = torch.Generator().manual_seed(0)

    def level(count: int, size: Size, channels: int) -> Tensor:
        return torch.randn(count, size[0] * size[1], channels, generator=random).to(device)

    channels = [8, 13, 17][: len(sizes)]
    query = [level(1, size, c) for size, c in zip(sizes, channels, strict=True)]
    pool = [level(3, size, c).half() for size, c in zip(sizes, channels, strict=True)]
    return Search(query, pool, sizes, [1.0, 0.5, 2.0][: len(sizes)], k, mode)


def found_at(rows: Tensor, search: Search, found: Found) -> Found:
    """Return the result for these query pixels of a contender that ran for all of them or for `search.rows`."""
    return found if search.rows is not None else (found[0][rows], found[1][rows])


def _square_distances(q: Tensor, g: Tensor) -> Tensor:
    """Return the squared distances of q [n, C] to g [m, C], both float64: [n, m].

    The expanded form loses 1e-16 of |g|^2, far below any tolerance here; differences would take a minute per query.
    """
    norms = q.square().sum(1, keepdim=True) + g.square().sum(1)
    return norms.addmm_(q, g.T, alpha=-2).clamp_(min=0)
