"""The pixel-level search: compare every pixel of a query with the pixels of its neighbours only."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .codes import CodedMaps
from .dispatch import BACKENDS, KernelChoice, choose_kernel, load
from .fused.geometry import raster_layout
from .fused.maps import FusedMaps
from .map_pool import MapPool, PoolStats
from .merge import merge_nearest
from .pyramid import Size, square_sizes
from .window import cells_at_corner

__all__ = [
    "BACKENDS",
    "MODES",
    "PRECISIONS",
    "CodedMaps",
    "FusedMaps",
    "KernelChoice",
    "MapPool",
    "PoolStats",
    "choose_kernel",
    "merge_nearest",
    "nearest_pixels",
    "split_matches",
]

MODES = ("concat-nearest", "concat-bilinear", "per-level")
PRECISIONS = ("float32", "fast")
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def nearest_pixels(
    query: Sequence[Tensor],
    pool: Sequence[Tensor] | FusedMaps | CodedMaps,
    pages: Tensor,
    k: int = 1,
    *,
    sizes: Sequence[Size] | None = None,
    weights: Sequence[float] | None = None,
    mode: str = "concat-nearest",
    window: int | None = None,
    backend: str | None = None,
    precision: str = "float32",
    prune: bool | None = None,
    working_memory: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the `k` nearest gallery pixels of every query pixel.

    d(p, q) = sum over levels of w * ||f(p) - g(q)||^2, the coarse levels upsampled to the finest.

    Args:
        query: levels [B, H*W, C], float32, float16 or bfloat16, the finest first; P = H*W of level 0.
        pool: levels [slots, H*W, C]: the gallery's resident maps, one slot per image (usually float16); or a MapPool's
            `maps`, which may be FusedMaps for the backends `triton` and `cupy`, or CodedMaps. The backend `native`
            decodes codes cell by cell in `concat-nearest`, and `triton` into its own layout; for others, torch decodes
            the maps that `pages` name first.
        pages: int64 [B, K], the slots of each query's neighbours, on any device.
        k: the number of pixels to find (the paper's kappa), in ascending order of distance. At most K*P; with a window,
            K * the cells of the window at a corner, min(H, window + 1) * min(W, window + 1).
        sizes: (H, W) of each level; by default the maps are square.
        weights: a finite number >= 0 for each level; by default 1.
        mode: `concat-nearest` and `concat-bilinear` upsample the features: by nearest neighbour, with row i of n on
            coarse row floor(i * c / n), or as torch interpolates with align_corners=False. `per-level` finds the k
            pixels of each level separately, upsamples the maps of distances bilinearly, and averages w * d over levels.
        window: the most rows, and columns, that a pixel and its match may be apart, on the finest grid; in `per-level`,
            on each level's own grid. By default they may be anywhere.
        backend: a name in `BACKENDS`; by default the environment's SPADE_INDEX_KERNEL, or the best for the device (see
            `choose_kernel`).
        precision: of the torch backend's scan for candidates. `fast` is bfloat16 where the processor computes in it and
            the finest level has enough channels to gain from it, and float32 elsewhere. In both, the distances of
            candidates are measured as float32 differences. The fused backends multiply in the maps' own type.
        prune: whether the torch backend skips pixels that the coarse levels rule out, which changes no result; by
            default where that is quicker.
        working_memory: bytes that a search may use in addition to its arguments and results, by default 256 MiB for the
            torch and native backends and 1 GiB for the fused ones. One query, and one gallery map for each thread, are
            always allowed.

    Returns:
        distances: float32 [B, P, k], squared, in the features' units squared.
        matches: int64 [B, P, k], position in the row of `pages` * P + pixel (see `split_matches`); of level 0
            in `per-level`. Equal distances go to the lowest match; where dozens of pixels are equally far, backends
            other than the reference may return another of them.
        Both are on the query's device.

    Raises:
        ValueError: the arguments do not fit each other; the message says which, in one line.

    Features must be finite; this is not checked. A query pixel or a gallery map with a NaN or an infinite feature gives
    unspecified distances and matches, but matches are always within range.
    Sources: SPADE, arXiv 2005.02357, section 3.3; for `window`, RAD, arXiv 2601.22763.
    """
    if isinstance(pool, CodedMaps):
        sizes, slots = _check_coded(query, pool, sizes), pool.slots
    elif isinstance(pool, FusedMaps):
        sizes, slots = _check_fused(query, pool, sizes), len(pool.levels[0])
    else:
        sizes, slots = _check_levels(query, pool, sizes), len(pool[0])
    weights = _check_weights(weights, len(query))
    _check_pages(query, slots, pages)
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
    window = _check_window(window, sizes[0])
    smallest = min(cells_at_corner(size, window) for size in (sizes if mode == "per-level" else sizes[:1]))
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= pages.shape[1] * smallest:
        raise ValueError(f"k must be 1..{pages.shape[1] * smallest}, the gallery pixels of a query, not {k!r}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    if working_memory is not None and working_memory < 1:
        raise ValueError(f"working_memory must be a number of bytes, not {working_memory}")
    choice = choose_kernel(query[0].device, backend)
    if isinstance(pool, FusedMaps) and not choice.fused:
        raise ValueError(f"maps in the fused kernels' layout cannot be searched by the kernel {choice}")
    if isinstance(pool, CodedMaps) and not choice.decodes:
        pool, pages = pool.gathered(pages)
    return load(choice.backend)(
        query,
        pool,
        pages,
        k,
        sizes=sizes,
        weights=weights,
        mode=mode,
        precision=precision,
        prune=prune,
        working_memory=working_memory,
        window=window,
    )


def split_matches(matches: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
    """Split matches [...] into (position in the row of pages, pixel in raster order), both int64 [...].

    `pixels` is P, the number of pixels of the finest level.
    """
    return matches // pixels, matches % pixels


def _check_levels(query: Sequence[Tensor], pool: Sequence[Tensor], sizes: Sequence[Size] | None) -> list[Size]:
    if not query or len(query) != len(pool):
        raise ValueError(f"query and pool must have the same levels, not {len(query)} and {len(pool)}")
    for number, (q, g) in enumerate(zip(query, pool, strict=True)):
        if q.ndim != 3 or g.ndim != 3 or q.shape[1:] != g.shape[1:] or 0 in q.shape[1:]:
            raise ValueError(
                f"level {number} must be [B, H*W, C] and [slots, H*W, C], not {list(q.shape)} and {list(g.shape)}"
            )
        if q.dtype not in _DTYPES or g.dtype not in _DTYPES:
            raise ValueError(f"level {number} must be float32, float16 or bfloat16, not {q.dtype} and {g.dtype}")
        if {q.device, g.device} != {query[0].device}:
            raise ValueError(f"query and pool must be on one device, not {q.device} and {g.device}")
        if len(q) != len(query[0]) or len(g) != len(pool[0]):
            raise ValueError(f"level {number} has {len(q)} queries and {len(g)} slots, unlike level 0")
    return _check_sizes(query, sizes)


def _check_sizes(query: Sequence[Tensor], sizes: Sequence[Size] | None) -> list[Size]:
    if sizes is None:
        sizes = square_sizes(query)
    if [h * w for h, w in sizes] != [q.shape[1] for q in query] or min(min(size) for size in sizes) < 1:
        raise ValueError(f"sizes {list(sizes)} do not fit levels of {[q.shape[1] for q in query]} pixels")
    if any(h > sizes[0][0] or w > sizes[0][1] for h, w in sizes):
        raise ValueError(f"level 0 must be the finest, not {list(sizes)}")
    return [(int(h), int(w)) for h, w in sizes]


def _check_fused(query: Sequence[Tensor], pool: FusedMaps, sizes: Sequence[Size] | None) -> list[Size]:
    sizes = _check_sizes(query, sizes)
    shapes = [[level.shape[1], c] for level, c in zip(pool.levels, pool.channels, strict=True)]
    wanted = [[level.shape[1], level.shape[2]] for level in query]
    wanted[0][0] = raster_layout(tuple(sizes)).members.numel()
    if shapes != wanted:
        raise ValueError(f"maps of rows and channels {shapes} do not fit a query that needs {wanted}")
    if pool.levels[0].device != query[0].device:
        raise ValueError(f"query and pool must be on one device, not {query[0].device} and {pool.levels[0].device}")
    return sizes


def _check_coded(query: Sequence[Tensor], pool: CodedMaps, sizes: Sequence[Size] | None) -> list[Size]:
    prepared = pool.coding.preparation
    shapes = [[h * w, c] for (h, w), c in zip(prepared.sizes, prepared.channels, strict=True)]
    if shapes != [list(level.shape[1:]) for level in query]:
        raise ValueError(
            f"maps of pixels and channels {shapes} do not fit a query of {[list(level.shape[1:]) for level in query]}"
        )
    if pool.stored[0].device != query[0].device:
        raise ValueError(f"query and pool must be on one device, not {query[0].device} and {pool.stored[0].device}")
    if sizes is not None and [tuple(size) for size in sizes] != prepared.sizes:
        raise ValueError(f"sizes {list(sizes)} are not those of the maps, {prepared.sizes}")
    return _check_sizes(query, prepared.sizes)


def _check_weights(weights: Sequence[float] | None, levels: int) -> list[float]:
    if weights is None:
        return [1.0] * levels
    weights = [float(w) for w in weights]
    if len(weights) != levels or not all(math.isfinite(w) and w >= 0 for w in weights):
        raise ValueError(f"weights must be {levels} finite numbers >= 0, not {weights}")
    return weights


def _check_window(window: int | None, finest: Size) -> int | None:
    """Return the window; None if it is the whole of the finest grid, and thus of all."""
    if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 0):
        raise ValueError(f"window must be a number of cells >= 0, or None, not {window!r}")
    return None if window is None or window >= max(finest) - 1 else window


def _check_pages(query: Sequence[Tensor], slots: int, pages: Tensor) -> None:
    if pages.dtype != torch.int64 or pages.ndim != 2 or len(pages) != len(query[0]) or pages.shape[1] < 1:
        raise ValueError(f"pages must be int64 [{len(query[0])}, K], not {pages.dtype} {list(pages.shape)}")
    if pages.numel() and not 0 <= int(pages.min()) <= int(pages.max()) < slots:
        raise ValueError(f"pages must be slots 0..{slots - 1}, not {int(pages.min())}..{int(pages.max())}")
