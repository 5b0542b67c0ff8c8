"""Merge the results of searches of parts of a query's gallery maps."""

import math

import torch
from torch import Tensor


def merge_nearest(distances: Tensor, matches: Tensor, k: int, last: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the k nearest pixels of those that searches of disjoint parts have found, as one search returns them.

    Each search found its own k nearest, or all pixels of its part where there are fewer.

    Args:
        distances: float32 [B, P, n], of all searches, in any order.
        matches: int64 [B, P, n], numbered as in one search of all parts.
        k: at most n.
        last: bool [B, P, n]: pixels that come after all others, whatever their distances; None: there are none.

    Returns:
        distances: float32 [B, P, k], ascending.
        matches: int64 [B, P, k]. Equal distances go to the lowest match.
    """
    order = matches.argsort(dim=2)
    distances, matches = distances.gather(2, order), matches.gather(2, order)
    rank = distances if last is None else distances.masked_fill(last.gather(2, order), math.inf)
    order = torch.sort(rank, dim=2, stable=True).indices[:, :, :k]
    return distances.gather(2, order), matches.gather(2, order)
