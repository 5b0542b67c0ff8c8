"""Moments of feature maps: count, sum and sum of squares of each level's values, from which variances follow.

They are whole numbers, so the totals of a gallery do not depend on the order in which its images were added.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from spade_index.exact import read_json

from .native import native_codes
from .widened import widened

UNIT = 2**20  # sums are stored in units of 1 / UNIT
MOST = 2**128  # above any sum: of 2**60 values, the squares of the largest float16

LevelMoments = list[int]  # count, sum, sum of squares
Moments = list[LevelMoments]  # of each level


def image_moments(values: np.ndarray) -> LevelMoments:
    """Return count, sum and sum of squares of one level's map, float16 [H*W, C], in units of 2**-20."""
    if (native := native_codes(values)) is not None and values.dtype == np.float16:
        total, squares = native.moments(values)
    else:
        wide = widened(values, np.float64)
        total = float(wide.sum())
        wide *= wide
        squares = float(wide.sum())
    return [values.size, round(total * UNIT), round(squares * UNIT)]


def maps_moments(maps: list[np.ndarray]) -> Moments:
    """Return the moments of one image's maps, float16 [H*W, C] for each level."""
    return [image_moments(values) for values in maps]


def moments_variance(count: int, total: int, squares: int) -> float:
    """Return the variance of values with these moments, at least a tiny positive number."""
    mean = total / count / UNIT
    return max(squares / count / UNIT - mean * mean, 1e-12)


def read_moments(text: str, levels: int, images: int, stored: Collection[int]) -> Moments:
    """Read a snapshot's moments from the catalog's JSON: levels that are not `stored` may have none.

    Raises ValueError if they are malformed.
    """
    moments = read_json(text)
    if moments == []:
        moments = no_moments(levels)
    if (
        not isinstance(moments, list)
        or [isinstance(level, list) and list(map(type, level)) for level in moments] != [[int, int, int]] * levels
        or any(moments[level][0] <= 0 < images for level in stored)
        or any(abs(number) > MOST for level in moments for number in level)
    ):
        raise ValueError("has unexpected moments")
    return moments


def no_moments(levels: int) -> Moments:
    """Return the moments of no images."""
    return [[0, 0, 0] for _ in range(levels)]


@dataclass(frozen=True)
class Totals:
    """The number of images of a snapshot, and the moments of all their maps."""

    images: int
    moments: Moments

    def plus(self, moments: Moments, images: int = 1) -> "Totals":
        """Return the totals with images added whose moments sum to these."""
        return Totals(self.images + images, _combined(self.moments, moments, 1))

    def minus(self, moments: Moments) -> "Totals":
        """Return the totals without one image that has these moments."""
        return Totals(self.images - 1, _combined(self.moments, moments, -1))


def _combined(one: Moments, other: Moments, sign: int) -> Moments:
    # Python's integers have no limit.
    return [[a + sign * b for a, b in zip(x, y, strict=True)] for x, y in zip(one, other, strict=True)]
