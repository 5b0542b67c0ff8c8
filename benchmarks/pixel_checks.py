"""Verifies a contender against exact distances, in float64, of sampled query pixels to all gallery pixels.

A distance may differ from the exact one by `rtol` of it plus `atol` of the scale: the squared norm of the query pixel
plus the largest one of a gallery pixel, since the expanded form takes the difference of such norms. The exact distance
of the match must be as close, so a match may be another pixel than the nearest only if both are equally near.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from spade_index.benchmarks.harness import WrongResult
from spade_index.benchmarks.pixel_peers import PER_LEVEL, Found, Search
from spade_index.kernels.pyramid import upsample_bilinear

TOLERANCES = {"float32": {"rtol": 1e-4, "atol": 1e-6}, "fast": {"rtol": 1e-2, "atol": 1e-3}}


class Oracle:
    """The exact result of a search for some query pixels.

    rows: int64 [n], the query pixels. nearest: float64 [n, k], ascending. pairs: float64 [n, K*P], the distances that
    matches are judged by: those of level 0 in `per-level`. best: float64 [n, k], the smallest of them. scale: float64
    [n].
    """

    def __init__(self, search: Search, rows: Tensor) -> None:
        self.search, self.rows = search, rows
        (query, maps, share), *coarse = _levels(search)
        self.pairs, scale = _square_distances(query[rows], maps)
        self.best = self.pairs.topk(search.k, largest=False).values
        self.nearest, self.scale = share * self.best, share * scale
        # A coarse level needs all its pixels, because their distances are interpolated.
        for number, (query, maps, share) in enumerate(coarse, 1):
            few, scale = _square_distances(query, maps, search.k)
            nearest = few.topk(search.k, largest=False).values
            self.nearest = (
                self.nearest + share * upsample_bilinear(nearest, search.sizes[number], search.sizes[0])[rows]
            )
            self.scale = (self.scale + share * scale.amax()).amax().expand(len(rows))

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
        tolerance = TOLERANCES["fast" if fast else "float32"]
        there = self.pairs.gather(1, matches)  # [n, k]
        for name, values, exact in (("distances", distances, self.nearest), ("matches", there, self.best)):
            error = (values.double() - exact).abs()
            over = error / (tolerance["rtol"] * exact + tolerance["atol"] * self.scale[:, None])
            if not bool((over <= 1).all()):  # NaN is not, either
                raise WrongResult(f"{name} are {over.max():.3g} times as far off as is allowed")
        relative = (distances.double() - self.nearest).abs() / (self.nearest + 1e-6 * self.scale[:, None])
        exact_matches = (there[:, 0] <= self.best[:, 0] * (1 + 1e-9)).double().mean()
        return {"distance_error": float(relative.max()), "exact_matches": float(exact_matches)}


def _levels(search: Search) -> list[tuple[Tensor, Iterator[Tensor], float]]:
    """Return query [P, C], maps [P, C] and share of each level, in float64; one level if they are concatenated."""
    if search.mode != PER_LEVEL:
        return [(*search.concatenated(torch.float64), 1.0)]
    levels = zip(search.query, search.pool, search.weights, strict=True)
    return [(q[0].double(), (g.double() for g in pool), weight / len(search.query)) for q, pool, weight in levels]


def _square_distances(q: Tensor, maps: Iterator[Tensor], k: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the squared distances of q [n, C] to all pixels of maps, or to the k nearest of each, and their scale.

    float64 [n, m] and [n]. The expanded form loses 1e-16 of |g|^2, far below any tolerance here; differences would
    take a minute per query.
    """
    norms, found, largest = q.square().sum(1), [], []
    for g in maps:
        squares = g.square().sum(1)
        distances = (norms[:, None] + squares).addmm_(q, g.T, alpha=-2).clamp_(min=0)
        found.append(distances if k is None else distances.topk(min(k, len(g)), largest=False).values)
        largest.append(squares.amax())
    return torch.cat(found, 1), norms + torch.stack(largest).amax()
