"""Compute scores and what scales them: level weights, the pooled score, score maps, and calibrated thresholds."""

import json
from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from spade_index.errors import GalleryDamaged, InputError
from spade_index.gallery.catalog.check import REMEDY
from spade_index.gallery.index.search import Neighbour
from spade_index.gallery.reader import Gallery
from spade_index.settings import ImageScore, SearchSettings


def pooled_score(neighbours: Sequence[Neighbour]) -> float:
    """Return the mean squared distance to the nearest images (section 3.2)."""
    return float(np.mean([neighbour.distance for neighbour in neighbours]))


def score_maps(distances: Tensor, grid: tuple[int, int], input_size: tuple[int, int], smoothing: float) -> np.ndarray:
    """Return score maps: mean distances, resized bilinearly and smoothed by a Gaussian (section 3.3).

    Args:
        distances: float32 [B, P, kappa], squared, of P = H0*W0 pixels in raster order.
        grid: (H0, W0) of the finest level.
        input_size: (H, W) of the backbone's input, in pixels.
        smoothing: sigma of the Gaussian, in pixels of the backbone's input.

    Returns:
        float32 [B, H, W].
    """
    coarse = distances.mean(2).unflatten(1, grid)  # [B, H0, W0]
    fine = F.interpolate(coarse[:, None], size=input_size, mode="bilinear", align_corners=False)[:, 0]  # [B, H, W]
    return gaussian_filter(fine.cpu().numpy(), smoothing, axes=(1, 2))


def level_weights(gallery: Gallery, search: SearchSettings) -> list[float]:
    """Return the weight of each level's squared distances.

    Raises:
        InputError: the number of weights is not the number of levels.
    """
    levels = len(gallery.settings.levels)
    if search.level_weights == "equal":
        return [1.0] * levels
    if search.level_weights == "inverse-variance":
        return [1 / variance for variance in gallery.level_variances()]
    if len(search.level_weights) != levels:
        raise InputError(f"{gallery.path} has {levels} levels: give as many level weights, not {search.level_weights}")
    return [float(weight) for weight in search.level_weights]


def calibrated_thresholds(gallery: Gallery, search: SearchSettings) -> tuple[dict[ImageScore, float], int | None]:
    """Return the thresholds stored for these search settings, and the snapshot that they were computed on.

    Returns `{}, None` where the gallery was not calibrated for these settings.

    Raises:
        GalleryDamaged: the stored calibration cannot be read.
    """
    stored = gallery.catalog.calibration(search.calibration_key())
    if stored is None:
        return {}, None
    try:
        calibration = json.loads(stored)
        thresholds = {kind: float(threshold) for kind, threshold in calibration["thresholds"].items()}
        return thresholds, calibration["snapshot"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise GalleryDamaged(f"{gallery.catalog.path}: a threshold cannot be read; {REMEDY}") from error
