"""ROC AUC, average precision, F1-max and PRO: how well scores separate defects from normality.

All follow from one `Curve`: how many normal and defective items have each score. Its points are exact; between two of
them, where items share a score, it is a straight line (a tie counts half), as the area under a curve demands.

- ROC AUC: the area under the true positive rate over the false positive rate.
- PRO (Bergmann et al. 2020): the same, with every ground-truth region weighted equally, whatever its size, up to a
  false positive rate of 0.3 (or 0.05), divided by it.
- sPRO (Bergmann et al. 2022, MVTec LOCO): as PRO, but a region counts as found once a share of it is.
- Average precision: the mean, over defective items, of the precision at their score.
- F1-max: the highest F1 of any threshold.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)
PRO_LIMIT, STRICT_PRO_LIMIT = 0.3, 0.05  # false positive rates where the integration of PRO ends
UNDEFINED = float("nan")


@dataclass(frozen=True)
class Curve:
    """How many items have each score, the highest score first; several scores may share an entry."""

    normal: NDArray[np.float64]  # [n] normal items
    defective: NDArray[np.float64]  # [n] defective items
    regions: NDArray[np.float64]  # [n] shares of ground-truth regions, which sum to their number
    saturating: NDArray[np.float64]  # [n] the same, of regions that count as found once a share of them is

    @property
    def defined(self) -> bool:
        """True if there are normal and defective items."""
        return bool(self.normal.sum() and self.defective.sum())

    def rates(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return the points of the curve: false positive rate, true positive rate, region overlap, each [n + 1]."""
        steps = (self.normal, self.defective, self.regions)
        false, true, overlap = (np.concatenate([[0.0], np.cumsum(step) / max(step.sum(), 1e-300)]) for step in steps)
        return false, true, overlap

    def saturation(self) -> NDArray[np.float64]:
        """Return the mean share of what is enough of each region that is found, at the same points, [n + 1]."""
        return np.concatenate([[0.0], np.cumsum(self.saturating) / max(self.saturating.sum(), 1e-300)])


@dataclass(frozen=True)
class PixelMetrics:
    """Quality of score maps as segmentations of defects; each value in 0..1, or NaN where it is not defined."""

    roc_auc: float
    pro: float
    average_precision: float = UNDEFINED
    f1_max: float = UNDEFINED
    pro_05: float = UNDEFINED  # PRO up to a false positive rate of 0.05
    spro: float = UNDEFINED
    spro_05: float = UNDEFINED


@dataclass(frozen=True)
class ImageMetrics:
    """Quality of image scores; each value in 0..1, or NaN where it is not defined."""

    roc_auc: float
    average_precision: float
    f1_max: float


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
    return image_metrics(labels, scores).roc_auc


def image_metrics(labels: ArrayLike, scores: ArrayLike) -> ImageMetrics:
    """Return the exact figures of image scores; arguments and errors as for `roc_auc`."""
    defective, values = checked(np.asarray(labels), np.asarray(scores), "labels and scores")
    found = metrics_of(image_curve(values[~defective], values[defective]))
    return ImageMetrics(found.roc_auc, found.average_precision, found.f1_max)


def image_curve(normal: NDArray[Any], defective: NDArray[Any]) -> Curve:
    """Return the curve of the scores of normal and of defective images, each [n]."""
    return _curve(normal, defective, np.ones(len(defective)))


def pixel_metrics(
    masks: Sequence[NDArray[np.bool_]],
    score_maps: Sequence[NDArray[np.float32]],
    fpr_limit: float = PRO_LIMIT,
) -> PixelMetrics:
    """Return the exact figures of all pixels of a few images; `PixelTally` takes any number of them.

    Regions are 8-connected, and found in each mask. The false positive rate is over the normal pixels of all images.

    Args:
        masks: one [H, W] bool for each image, True where defective; the sizes may differ between images.
        score_maps: one [H, W] float32 for each image, higher is more anomalous.
        fpr_limit: where the integration of `pro` ends, 0 < fpr_limit <= 1.

    Returns:
        Figures in 0..1; NaN when no pixel is defective, or none is normal.

    Raises:
        ValueError: a score is NaN, a mask is not bool, a mask and its score map differ in size, their numbers
            differ, or `fpr_limit` is out of range.
    """
    if not 0 < fpr_limit <= 1:
        raise ValueError(f"fpr_limit must be above 0 and at most 1, not {fpr_limit}")
    normal: list[NDArray[Any]] = [np.empty(0, dtype=np.float32)]
    hits: list[NDArray[Any]] = [np.empty(0, dtype=np.float32)]
    shares: list[NDArray[np.float64]] = [np.empty(0)]
    for number, (mask, score_map) in enumerate(zip(masks, score_maps, strict=True)):
        defective, values = checked(np.asarray(mask), np.asarray(score_map), f"mask and score map {number}")
        normal.append(values[~defective])
        if defective.any():
            hits.append(values[defective])
            shares.append(region_shares(defective))
    return metrics_of(_curve(np.concatenate(normal), np.concatenate(hits), np.concatenate(shares)), fpr_limit)


def region_shares(defective: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return, for each defective pixel of a mask [H, W] in raster order, the share of its region that it is."""
    regions, _ = ndimage.label(defective, EIGHT_CONNECTED)
    region_of_pixel = regions[defective]
    return 1.0 / np.bincount(region_of_pixel)[region_of_pixel]


def saturating_shares(values: NDArray[Any], saturation: float) -> NDArray[np.float64]:
    """Return the share of a region's discovery that each of its pixels is, float64 [n]; they sum to 1.

    Going down from the highest value, pixels count until `saturation` of them are found. Equal values share alike.

    Args:
        values: [n] the scores of the region's pixels.
        saturation: number of pixels (it need not be whole) from which the region counts as found.
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    above = np.cumsum(counts[::-1])[::-1] - counts  # pixels of higher value
    needed = min(max(saturation, 1e-9), values.size)
    reached = np.clip(np.minimum(above + counts, needed) - above, 0.0, None) / needed
    return (reached / counts)[inverse]


def metrics_of(curve: Curve, fpr_limit: float = PRO_LIMIT) -> PixelMetrics:
    """Return the figures of a curve; `pro` ends at `fpr_limit`."""
    if not curve.defined:
        return PixelMetrics(UNDEFINED, UNDEFINED)
    return PixelMetrics(
        **_areas(curve, _area, fpr_limit), average_precision=_average_precision(curve), f1_max=_f1_max(curve)
    )


def largest_errors(curve: Curve) -> PixelMetrics:
    """Return by how much the figures can differ from those of the same items with a score each.

    Nothing is known of the order of normal and defective items that share an entry: the curve may pass anywhere through
    the rectangle of its step, which is half above the straight line and half below it.
    """
    if not curve.defined:
        return PixelMetrics(UNDEFINED, UNDEFINED)
    true, false, found = np.cumsum(curve.defective), np.cumsum(curve.normal), curve.defective.sum()
    true_before, false_before = true - curve.defective, false - curve.normal
    steps = curve.defective / found
    best = true / np.maximum(true + false_before, 1)
    worst = np.where(curve.normal > 0, true_before / np.maximum(true_before + false, 1), best)
    best_f1 = 2 * true / (true + false_before + found)
    return PixelMetrics(
        **_areas(curve, _slack),
        average_precision=float((steps * (best - worst)).sum()),
        f1_max=float(best_f1.max() - _f1_max(curve)),
    )


def checked(defective: NDArray[Any], values: NDArray[Any], what: str) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Return labels and scores of the same shape. Raises ValueError that names `what` is wrong with them."""
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


def _curve(normal: NDArray[Any], hits: NDArray[Any], shares: NDArray[np.float64]) -> Curve:
    """Return the curve of the scores of normal and of defective items, with the shares of the latter in regions."""
    distinct, entry = np.unique(np.concatenate([normal, hits]), return_inverse=True)
    of_normal, of_hits = len(distinct) - 1 - entry[: normal.size], len(distinct) - 1 - entry[normal.size :]
    normals, defective = (np.bincount(at, minlength=len(distinct)).astype(float) for at in (of_normal, of_hits))
    regions = np.asarray(np.bincount(of_hits, shares, len(distinct)), np.float64)
    return Curve(normals, defective, regions, np.zeros(len(distinct)))


def _steps(
    normal: NDArray[np.float64], found: NDArray[Any], limit: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return of each step of a curve: width, width below `limit`, the height before it, and its own height."""
    total, height = normal.sum(), np.cumsum(found)
    before = (np.cumsum(normal) - normal) / total
    width = normal / total
    return width, np.clip(limit - before, 0.0, width), (height - found) / height[-1], found / height[-1]


def _areas(
    curve: Curve,
    measure: Callable[[NDArray[np.float64], NDArray[np.float64], float], float],
    fpr_limit: float = PRO_LIMIT,
) -> dict[str, float]:
    """Return `measure` of each figure that is an area, by its name in PixelMetrics; `pro` ends at `fpr_limit`."""
    saturates = curve.saturating.sum() > 0
    return {
        "roc_auc": measure(curve.normal, curve.defective, 1.0),
        "pro": measure(curve.normal, curve.regions, fpr_limit),
        "pro_05": measure(curve.normal, curve.regions, STRICT_PRO_LIMIT),
        "spro": measure(curve.normal, curve.saturating, PRO_LIMIT) if saturates else UNDEFINED,
        "spro_05": measure(curve.normal, curve.saturating, STRICT_PRO_LIMIT) if saturates else UNDEFINED,
    }


def _area(normal: NDArray[np.float64], found: NDArray[Any], limit: float) -> float:
    """Return the area under a curve up to a false positive rate, divided by it: 0..1."""
    width, climbed, before, rise = _steps(normal, found, limit)
    slope = np.divide(rise, width, out=np.zeros_like(width), where=width > 0)
    return float(np.clip((climbed * (before + 0.5 * slope * climbed)).sum() / limit, 0.0, 1.0))


def _slack(normal: NDArray[np.float64], found: NDArray[Any], limit: float) -> float:
    """Return by how much the area can be off; the step that the limit cuts may have all of its height before it."""
    width, climbed, _, rise = _steps(normal, found, limit)
    cut = climbed < width
    return float((climbed * rise * np.where(cut, 1.0, 0.5)).sum() / limit)


def _average_precision(curve: Curve) -> float:
    true, false = np.cumsum(curve.defective), np.cumsum(curve.normal)
    precision = true / np.maximum(true + false, 1)
    return float((curve.defective * precision).sum() / true[-1])


def _f1_max(curve: Curve) -> float:
    true, false = np.cumsum(curve.defective), np.cumsum(curve.normal)
    return float((2 * true / (true + false + true[-1])).max())
