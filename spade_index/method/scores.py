"""Compute scores: the pooled score, score maps, and the map score."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from spade_index.gallery.index.search import Neighbour
from spade_index.settings import ImageScore

PEAK = "peak"  # the maximum of the score map, whatever the map score is: from it follows the pixel threshold
UNDIVIDED = "undivided"  # the map score before it is divided by those of the neighbours, where it is
LEAST_SHARE = 0.1  # of the mean map score of all images, that neighbours count as having scored at least


def pooled_score(neighbours: Sequence[Neighbour]) -> float:
    """Return the mean squared distance to the nearest images (section 3.2)."""
    return float(np.mean([neighbour.distance for neighbour in neighbours]))


def score_maps(
    distances: Tensor,
    grid: tuple[int, int],
    input_size: tuple[int, int],
    smoothing: float,
    cells: Tensor | None = None,
) -> np.ndarray:
    """Return score maps: mean distances, resized bilinearly and smoothed by a Gaussian (section 3.3).

    Where only some cells count, a pixel is the weighted mean of these alone, with the weights that it would have
    otherwise. Pixels in other cells have the lowest score of the map, at most 0.

    Args:
        distances: float32 [B, P], of P = H0*W0 pixels in raster order.
        grid: (H0, W0) of the comparison.
        input_size: (H, W) of the backbone's input, in pixels.
        smoothing: sigma of the Gaussian, in pixels of the backbone's input.
        cells: bool [B, P], those that count; None: all.

    Returns:
        float32 [B, H, W].
    """
    if cells is None:
        return _smoothed(distances, grid, input_size, smoothing)
    weights = _smoothed(cells.to(distances.dtype), grid, input_size, smoothing)
    total = _smoothed(torch.where(cells, distances, 0), grid, input_size, smoothing)
    return inside_only(total, weights, enlarged(cells, grid, input_size))


def inside_only(total: np.ndarray, weights: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return weighted means, float32 [B, H, W], and elsewhere the lowest of each map, at most 0."""
    maps = np.divide(total, weights, out=np.zeros_like(total), where=inside & (weights > 0))
    lowest = np.where(inside, maps, 0).min((-2, -1), keepdims=True, initial=0)
    return np.where(inside, maps, lowest)


def enlarged(cells: Tensor, grid: tuple[int, int], size: Sequence[int]) -> np.ndarray:
    """Return which pixels of a finer grid lie in cells bool [B, P] that count: bool [B, H, W]."""
    coarse = cells.unflatten(1, grid)[:, None].float()
    found: np.ndarray = F.interpolate(coarse, size=tuple(size), mode="nearest-exact")[:, 0].cpu().numpy() > 0
    return found


def _smoothed(values: Tensor, grid: tuple[int, int], input_size: tuple[int, int], smoothing: float) -> np.ndarray:
    coarse = values.unflatten(1, grid)  # [B, H0, W0]
    fine = F.interpolate(coarse[:, None], size=input_size, mode="bilinear", align_corners=False)[:, 0]  # [B, H, W]
    smoothed: np.ndarray = gaussian_filter(fine.cpu().numpy(), smoothing, axes=(1, 2))
    return smoothed


def image_scores(pooled: float, of_map: float) -> dict[ImageScore, float]:
    """Return the image scores of an image with a pooled score and a map score: these, and their product.

    A map score is negative where more is subtracted from the map than it holds; the product is then 0.
    """
    return {"pooled": pooled, "map": of_map, "both": pooled * max(0.0, of_map)}


def counted_mean(maps: np.ndarray, axis: int) -> np.ndarray:
    """Return the mean of maps over an axis, without cells that do not count in some of them, which are 0 there."""
    counted = (maps != 0).sum(axis)
    mean: np.ndarray = maps.sum(axis, dtype=np.float32) / np.maximum(counted, 1, dtype=np.float32)
    return mean


def divisors(means: np.ndarray, of_all: float) -> np.ndarray:
    """Return what map scores are divided by, float64 [n], above 0.

    Args:
        means: of the map scores of each image's neighbours, float64 [n].
        of_all: the mean map score of all images; where it is not above 0, as in a gallery of copies, divisors are 1.
    """
    return np.maximum(means, LEAST_SHARE * of_all) if of_all > 0 else np.ones(len(means))


def map_score(score_map: np.ndarray, top_share: float, inside: np.ndarray | None = None) -> float:
    """Return the mean of the highest `top_share` of a score map [H, W]; for 0, the maximum.

    Where `inside`, bool [H, W], is given, pixels outside do not count; the score is 0 where none does.
    """
    if inside is not None:
        score_map = score_map[inside]
        if not score_map.size:
            return 0.0
    count = round(top_share * score_map.size)
    if count <= 1:
        return float(score_map.max())
    return float(np.partition(score_map, score_map.size - count, axis=None)[-count:].mean(dtype=np.float64))
