"""Compute scores: the pooled score, score maps, and the map score."""

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from spade_index.gallery.index.search import Neighbour
from spade_index.settings import ImageScore


def pooled_score(neighbours: Sequence[Neighbour]) -> float:
    """Return the mean squared distance to the nearest images (section 3.2)."""
    return float(np.mean([neighbour.distance for neighbour in neighbours]))


def score_maps(distances: Tensor, grid: tuple[int, int], input_size: tuple[int, int], smoothing: float) -> np.ndarray:
    """Return score maps: mean distances, resized bilinearly and smoothed by a Gaussian (section 3.3).

    Args:
        distances: float32 [B, P], of P = H0*W0 pixels in raster order.
        grid: (H0, W0) of the comparison.
        input_size: (H, W) of the backbone's input, in pixels.
        smoothing: sigma of the Gaussian, in pixels of the backbone's input.

    Returns:
        float32 [B, H, W].
    """
    coarse = distances.unflatten(1, grid)  # [B, H0, W0]
    fine = F.interpolate(coarse[:, None], size=input_size, mode="bilinear", align_corners=False)[:, 0]  # [B, H, W]
    return gaussian_filter(fine.cpu().numpy(), smoothing, axes=(1, 2))


def image_scores(pooled: float, of_map: float) -> dict[ImageScore, float]:
    """Return the image scores of an image with a pooled score and a map score: these, and their product.

    A map score is negative where more is subtracted from the map than it holds; the product is then 0.
    """
    return {"pooled": pooled, "map": of_map, "both": pooled * max(0.0, of_map)}


def map_score(score_map: np.ndarray, top_share: float) -> float:
    """Return the mean of the highest `top_share` of a score map [H, W]; for 0, the maximum."""
    count = round(top_share * score_map.size)
    if count <= 1:
        return float(score_map.max())
    return float(np.partition(score_map, score_map.size - count, axis=None)[-count:].mean(dtype=np.float64))
