"""The definition of the pixel search, in float64 and in its plainest form: every other backend is tested against it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .pyramid import Size, nearest_index, upsample_bilinear


@torch.no_grad()
def nearest_pixels(
    query: Sequence[Tensor],
    pool: Sequence[Tensor],
    pages: Tensor,
    k: int = 1,
    *,
    sizes: Sequence[Size],
    weights: Sequence[float],
    mode: str,
    window: int | None = None,
    **_: object,
) -> tuple[Tensor, Tensor]:
    """Search as `spade_index.kernels.nearest_pixels` does, with checked arguments.

    `query` are levels [B, H*W, C], `pool` levels [slots, H*W, C], `pages` int64 [B, K]. Returns squared distances
    float32 [B, P, k] and matches int64 [B, P, k]. Source: SPADE, arXiv 2005.02357, section 3.3.
    """
    search = _per_level if mode == "per-level" else _concatenated
    found = [
        search([level[b] for level in query], pool, pages[b].tolist(), k, sizes, weights, mode, window)
        for b in range(pages.shape[0])
    ]
    pixels, device = query[0].shape[1], query[0].device
    if not found:
        return torch.empty(0, pixels, k, device=device), torch.empty(0, pixels, k, dtype=torch.int64, device=device)
    return torch.stack([d for d, _ in found]).float(), torch.stack([m for _, m in found])


def _concatenated(
    query: Sequence[Tensor],
    pool: Sequence[Tensor],
    slots: Sequence[int],
    k: int,
    sizes: Sequence[Size],
    weights: Sequence[float],
    mode: str,
    window: int | None,
) -> tuple[Tensor, Tensor]:
    channel_weights = torch.cat(
        [q.new_full((q.shape[1],), w, dtype=torch.float64) for q, w in zip(query, weights, strict=True)]
    )  # [D]
    q = _upsample(query, sizes, mode)  # [P, D]
    best = q.new_empty(q.shape[0], 0)
    matches = best.long()
    for position, slot in enumerate(slots):
        g = _upsample([level[slot] for level in pool], sizes, mode)  # [P, D]
        d = torch.stack([(pixel - g).square() @ channel_weights for pixel in q])  # [P, P]
        if window is not None:
            d = d.masked_fill(_apart(sizes[0], window).to(d.device), math.inf)
        here = position * len(g) + torch.arange(len(g), device=g.device).expand_as(d)
        # Earlier matches stand first and the sort is stable: ties go to the lowest match.
        best, order = torch.cat([best, d], 1).sort(dim=1, stable=True)
        matches = torch.cat([matches, here], 1).gather(1, order)[:, :k]
        best = best[:, :k]
    return best, matches


def _per_level(
    query: Sequence[Tensor],
    pool: Sequence[Tensor],
    slots: Sequence[int],
    k: int,
    sizes: Sequence[Size],
    weights: Sequence[float],
    mode: str,
    window: int | None,
) -> tuple[Tensor, Tensor]:
    total = torch.zeros(query[0].shape[0], k, dtype=torch.float64, device=query[0].device)
    finest = None
    for q, g, size, weight in zip(query, pool, sizes, weights, strict=True):
        d, matches = _concatenated([q], [g], slots, k, [size], [1.0], "concat-nearest", window)
        total += weight * upsample_bilinear(d, size, sizes[0])
        finest = matches if finest is None else finest
    assert finest is not None
    return total / len(query), finest


def _apart(size: Size, window: int) -> Tensor:
    """Return which pairs of a grid's pixels are more than `window` rows or columns apart: bool [P, P]."""
    y, x = torch.arange(size[0] * size[1]) // size[1], torch.arange(size[0] * size[1]) % size[1]
    return ((y[:, None] - y).abs() > window) | ((x[:, None] - x).abs() > window)


def _upsample(levels: Sequence[Tensor], sizes: Sequence[Size], mode: str) -> Tensor:
    """Upsample levels [H*W, C] of one image to the finest grid and concatenate them: float64 [P, D]."""
    maps = []
    for level, size in zip(levels, sizes, strict=True):
        level = level.double()
        if mode == "concat-bilinear":
            maps.append(upsample_bilinear(level, size, sizes[0]))
        else:
            maps.append(level[nearest_index(size, sizes[0]).to(level.device)])
    return torch.cat(maps, 1)
