"""The mode `per-level`: every level finds its own nearest pixels, and the maps of their distances are averaged."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .pyramid import Size, upsample_bilinear


def search_levels(
    search: Callable[..., tuple[Tensor, Tensor]],
    query: Sequence[Tensor],
    pool: Sequence[Tensor],
    pages: Tensor,
    k: int,
    *,
    sizes: Sequence[Size],
    weights: Sequence[float],
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """As `nearest_pixels` in this mode, by a backend's search of one level at a time."""
    total = torch.zeros(pages.shape[0], query[0].shape[1], k, device=query[0].device)
    finest = torch.empty(0)
    for level in reversed(range(len(query))):
        alone: dict[str, Any] = {"sizes": [sizes[level]], "weights": [1.0], "mode": "concat-nearest"} | options
        d, finest = search([query[level]], [pool[level]], pages, k, **alone)
        for b in range(pages.shape[0]):
            up = upsample_bilinear(d[b], sizes[level], sizes[0])
            total[b].add_(up, alpha=weights[level] / len(query))
    return total, finest
