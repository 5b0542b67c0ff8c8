"""How many values each level of a gallery's maps has, their sum and their sum of squares: for its variances.

Whole numbers, so that a gallery's totals do not depend on the order in which images came or were committed.
"""

import json

import numpy as np


def image_moments(values: np.ndarray) -> list[int]:
    """Count, sum and sum of squares of a map's values in units of 2**-20."""
    wide = values.astype(np.float64)
    total = float(wide.sum())
    wide *= wide
    return [values.size, round(total * 2**20), round(float(wide.sum()) * 2**20)]


def moments_variance(count: int, total: int, squares: int) -> float:
    """The variance of values with these moments, at least a tiny positive number."""
    mean = total / count / 2**20
    return max(squares / count / 2**20 - mean * mean, 1e-12)


def read_moments(text: str, levels: int, images: int) -> list[list[int]]:
    """Those of a snapshot, of each level, from the catalog's JSON. Raises ValueError if they cannot be."""
    moments = json.loads(text) or [[0, 0, 0] for _ in range(levels)]
    kinds = [[type(number) for number in level] for level in moments if isinstance(level, list)]
    if kinds != [[int, int, int]] * levels or any(level[0] <= 0 < images for level in moments):
        raise ValueError("has unexpected moments")
    return moments
