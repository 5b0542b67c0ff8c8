"""Exact ROC AUC and PRO: how well scores separate defects from normality.

Both are areas under a curve of the true positive rate over the false positive rate. Such a curve is a weighted sum of
ramps, one for each defective item: 0 up to the false positive rate `above` (the share of normal items that score
higher), 1 from `above + tied` on, and a straight line between. The areas of ramps have a closed form, so the normal
scores are sorted once, and no grid of thresholds is needed:

- ROC AUC gives every defective item the same weight, and integrates to a false positive rate of 1;
- PRO gives every ground-truth region the same weight, whatever its size, and integrates to 0.3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class PixelMetrics:
    """Quality of score maps as segmentations of defects; each value in 0..1, or NaN where it is not defined."""

    roc_auc: float
    pro: float


def roc_auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the chance that a defective item scores higher than a normal one; a tie counts half.

    Args:
        labels: [n] bool, True where defective.
        scores: [n] numbers, higher is more anomalous.

    Returns:
        0..1; NaN when the items are all normal or all defective.

    Raises:
        ValueError: a score is NaN, the labels are not bool, or the lengths differ.
    """
    defective, values = _checked(np.asarray(labels), np.asarray(scores), "labels and scores")
    normal = np.sort(values[~defective])
    hits = values[defective]
    above, tied = _false_positive_rates(hits, normal)
    return _mean_area(above, tied, np.ones(hits.size), limit=1.0)


def pixel_metrics(
    masks: Sequence[NDArray[np.bool_]],
    score_maps: Sequence[NDArray[np.float32]],
    fpr_limit: float = 0.3,
) -> PixelMetrics:
    """Return ROC AUC over all pixels, and PRO: the per-region overlap (Bergmann et al. 2020, MVTec AD).

    PRO averages, over the regions (8-connected, found in each mask), the share of a region that is above the
    threshold; it is the area under that average as a function of the false positive rate over the normal pixels
    of all images, up to `fpr_limit`, divided by `fpr_limit`. Exact, with ties.

    Args:
        masks: one [H, W] bool for each image, True where defective; the sizes may differ between images.
        score_maps: one [H, W] float32 for each image, higher is more anomalous.
        fpr_limit: where the integration of PRO ends, 0 < fpr_limit <= 1.

    Returns:
        Both areas in 0..1; NaN when no pixel is defective, or none is normal.

    Raises:
        ValueError: a score is NaN, a mask is not bool, a mask and its score map differ in size, their numbers
            differ, or `fpr_limit` is out of range.
    """
    if not 0 < fpr_limit <= 1:
        raise ValueError(f"fpr_limit must be above 0 and at most 1, not {fpr_limit}")
    normal, hits, region_weights = _collect(masks, score_maps)
    above, tied = _false_positive_rates(hits, normal)
    return PixelMetrics(
        roc_auc=_mean_area(above, tied, np.ones(hits.size), limit=1.0),
        pro=_mean_area(above, tied, region_weights, limit=fpr_limit),
    )


def _collect(
    masks: Sequence[NDArray[Any]], score_maps: Sequence[NDArray[Any]]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64]]:
    """Return the ascending scores of normal [n] and defective pixels [m], and weights [m] that sum to 1 per region."""
    normal_parts: list[NDArray[Any]] = [np.empty(0, dtype=np.float32)]
    hit_parts: list[NDArray[Any]] = [np.empty(0, dtype=np.float32)]
    weight_parts: list[NDArray[np.float64]] = [np.empty(0)]
    for number, (mask, score_map) in enumerate(zip(masks, score_maps, strict=True)):
        defective, values = _checked(np.asarray(mask), np.asarray(score_map), f"mask and score map {number}")
        normal_parts.append(values[~defective])
        if defective.any():
            regions, _ = ndimage.label(defective, EIGHT_CONNECTED)
            region_of_pixel = regions[defective]
            hit_parts.append(values[defective])
            weight_parts.append(1.0 / np.bincount(region_of_pixel)[region_of_pixel])
    normal = np.concatenate(normal_parts)
    normal.sort()
    hits = np.concatenate(hit_parts)
    # searchsorted of ascending values walks through `normal` once; in another order every look-up misses the cache.
    order = np.argsort(hits)
    return normal, hits[order], np.concatenate(weight_parts)[order]


def _checked(defective: NDArray[Any], values: NDArray[Any], what: str) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    if defective.size == 0:
        defective = defective.astype(bool)
    if defective.dtype != bool:
        # "not 0" would grow the regions of masks that are stored as grey levels.
        raise ValueError(f"{what}: the ground truth must be bool, not {defective.dtype}")
    if defective.shape != values.shape:
        raise ValueError(f"{what} differ in shape: {defective.shape} and {values.shape}")
    if np.isnan(values).any():
        raise ValueError(f"{what}: a score is NaN")
    return defective, values


def _false_positive_rates(hits: NDArray[Any], normal: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return, for each of hits [m], the share of normal [n] (ascending) that scores higher, and the share that ties."""
    if normal.size == 0:
        return np.full(hits.size, np.nan), np.full(hits.size, np.nan)
    below = np.searchsorted(normal, hits, side="left")
    not_above = np.searchsorted(normal, hits, side="right")
    return (normal.size - not_above) / normal.size, (not_above - below) / normal.size


def _mean_area(
    above: NDArray[np.float64], tied: NDArray[np.float64], weights: NDArray[np.float64], limit: float
) -> float:
    """Return the weighted mean of the ramps' areas from 0 to `limit`, divided by `limit`: 0..1."""
    total = float(weights.sum())
    if total == 0:
        return float("nan")
    climbed = np.clip(limit - above, 0.0, tied)
    areas = np.maximum(limit - above - tied, 0.0)
    np.divide(climbed, tied, out=climbed, where=tied > 0)
    areas += 0.5 * climbed**2 * tied
    return float(np.clip(np.dot(areas, weights) / (total * limit), 0.0, 1.0))
