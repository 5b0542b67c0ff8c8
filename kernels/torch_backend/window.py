"""The search in a window in plain torch: float32 differences of maps and shifted maps, on any device."""

import math
from collections.abc import Sequence
from functools import partial
from threading import Lock

import torch
from torch import Tensor

from ..pyramid import Size, upsample_bilinear
from ..threads import spread
from ..window import Nearest, Window, make_window, overlap

TILE_BYTES = 4 << 20  # of differences at a time on a processor, so that they stay in its caches


def nearest_in_window(
    query: Sequence[Tensor],
    pool: Sequence[Tensor],
    pages: Tensor,
    k: int,
    *,
    sizes: Sequence[Size],
    weights: Sequence[float],
    bilinear: bool,
    window: int,
    working_memory: int,
) -> tuple[Tensor, Tensor]:
    """Search levels [B, H*W, C] in a pool [slots, H*W, C], as `spade_index.kernels.nearest_pixels` does.

    Returns squared distances float32 [B, P, k] and matches int64 [B, P, k]. `working_memory` (bytes) bounds the maps
    that are compared at a time; one is always allowed.
    """
    device, pixels = query[0].device, query[0].shape[1]
    grids = [sizes[0]] * len(sizes) if bilinear else list(sizes)  # interpolated levels are compared on the finest grid
    view = make_window(tuple(grids), window, device)
    threads, maps = _fit(view, [level.shape[2] for level in query], pages.shape[1], device, working_memory)
    distances = torch.empty(pages.shape[0], pixels, k, device=device)
    matches = torch.empty(pages.shape[0], pixels, k, dtype=torch.int64, device=device)
    lock = Lock()
    for number, page in enumerate(pages.to(device)):
        here = _prepare([level[number : number + 1] for level in query], sizes, bilinear)
        near = Nearest(view, weights, 1, k, device)

        @torch.no_grad()
        def search(first: int, page: Tensor = page, here: list[Tensor] = here, near: Nearest = near) -> None:
            slots = page[first : first + maps]
            there = _prepare([level.index_select(0, slots) for level in pool], sizes, bilinear)
            found = Nearest(view, weights, 1, k, device)
            found.add(partial(_measure, view, here, there), len(slots), first)
            with lock:
                near.merge(found)

        spread(search, range(0, len(page), maps), threads)
        distances[number : number + 1], matches[number : number + 1] = near.result()
    return distances, matches


def _fit(
    window: Window, channels: Sequence[int], positions: int, device: torch.device, working_memory: int
) -> tuple[int, int]:
    """Return the threads, and the maps that each compares at a time, so that buffers fit."""
    values = [h * w * c for (h, w), c in zip(window.sizes, channels, strict=True)]
    for_map = 4 * (2 * sum(values) + max(values)) + window.pair_bytes()
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    if threads > positions:
        threads = 1  # too few maps for the threads: torch spreads its operations over them instead
    threads = max(1, min(threads, working_memory // for_map))
    maps = working_memory // threads // for_map
    if device.type == "cpu":
        maps = min(maps, TILE_BYTES // (4 * max(values)), math.ceil(positions / threads))
    return threads, max(1, maps)


def _prepare(levels: Sequence[Tensor], sizes: Sequence[Size], bilinear: bool) -> list[Tensor]:
    """Return levels [n, H*W, C] as float32 [n, H, W, C], interpolated to the finest grid if `bilinear`."""
    prepared = []
    for level, size in zip(levels, sizes, strict=True):
        level = level.float().contiguous()
        if bilinear:
            level = torch.stack([upsample_bilinear(one, size, sizes[0]) for one in level])
        prepared.append(level.unflatten(1, sizes[0] if bilinear else size))
    return prepared


def _measure(window: Window, query: Sequence[Tensor], gallery: Sequence[Tensor], level: int, shift: int) -> Tensor:
    """Measure a level of one query [1, H, W, C] and some maps [K, H, W, C]: see `window.Measure`."""
    q, g, reach = query[level], gallery[level], window.reaches[level]
    maps, h, w, _ = g.shape
    out = torch.full((maps, 2 * reach + 1, h, w), torch.inf, device=g.device)
    buffer = torch.empty(g.numel(), device=g.device)
    for number, aside in enumerate(range(-reach, reach + 1)):
        here, there = ((overlap(h, s * shift), overlap(w, s * aside)) for s in (1, -1))
        shifted = g[:, *there]
        difference = buffer[: shifted.numel()].view(shifted.shape)
        torch.sub(shifted, q[:, *here], out=difference)
        torch.sum(difference.square_(), -1, out=out[:, number, *here])
    return out.flatten(2)[None]  # [1, K, 2 * reach + 1, H*W]
