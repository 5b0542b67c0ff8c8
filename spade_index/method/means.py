"""Means of the figures of several categories."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from .evaluation import PIXEL_FIGURES, SATURATING_FIGURES

AVERAGED = (
    "image_roc_auc",
    "image_average_precision",
    "image_f1_max",
    *PIXEL_FIGURES.values(),
    *SATURATING_FIGURES.values(),
    "hit_rate",
    "false_alarm_rate",
)


def means_of(categories: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean of each figure over the categories that have it, and their number where not all have it."""
    means: dict[str, Any] = {"categories": len(categories), "images": sum(of["images"] for of in categories.values())}
    missing: dict[str, int] = {}
    for name in AVERAGED:
        values = [of[name] for of in categories.values() if of.get(name) is not None]
        if values:
            means[name] = fmean(values)
        elif any(name in of for of in categories.values()):
            means[name] = None
        if 0 < len(values) < len(categories):
            missing[name] = len(values)
    return means | ({"of_categories": missing} if missing else {})
