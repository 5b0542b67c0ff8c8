"""The mode `per-level`: search each level separately, and average the maps of distances."""

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
    """Search as `nearest_pixels` does in this mode, with a backend's `search` of one level at a time.

    Returns distances float32 [B, P, k] and the matches int64 [B, P, k] of level 0.
    """
    total = torch.zeros(pages.shape[0], query[0].shape[1], k, device=query[0].device)  # [B, P, k]
    finest = torch.empty(0)
    for level in reversed(range(len(query))):
        alone: dict[str, Any] = {"sizes": [sizes[level]], "weights": [1.0], "mode": "concat-nearest"} | options
        d, finest = search([query[level]], [pool[level]], pages, k, **alone)
        for b in range(pages.shape[0]):
            up = upsample_bilinear(d[b], sizes[level], sizes[0])  # [P, k]
            total[b].add_(up, alpha=weights[level] / len(query))
    return total, finest
