"""Drift: whether the images that were judged last are like those of the calibration, in their scores and brightness.

Each new image has a rank: the share of the calibration's images that are below it. Where both are alike, ranks are 0.5
on average, and the mean of N of them, against n images of the calibration, has the variance (N + n + 1) / (12 N n),
whatever the distribution (Wilcoxon, Mann and Whitney). A two-sided test of that mean tells drift from chance.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from spade_index.gallery.reader import Gallery
from spade_index.images.geometry import place_of

from .siblings import picture_numbers

FALSE_WARNINGS = 0.001  # share of windows of images like those of the calibration that are warned of
LEAST = 30  # images; of fewer, nothing is said
THUMBNAILS = 500  # that the brightness of a gallery is taken from, about
LUMA = np.array([0.299, 0.587, 0.114])  # of red, green and blue


@dataclass(frozen=True)
class Drift:
    """How the images that were judged last compare with those of the calibration."""

    images: int  # judged last
    mean_rank: float  # in 0..1; 0.5 where they are alike
    p_value: float  # of a mean rank that is as far from 0.5, where they are alike
    bins: tuple[int, ...]  # images by rank, in tenths

    @property
    def warns(self) -> bool:
        """Whether it is more than chance. Of the two quantities, each is given half of the false warnings."""
        return self.images >= LEAST and self.p_value < FALSE_WARNINGS / 2


def drift_of(ranks: Sequence[float], normal: int) -> Drift:
    """Return the drift of at least one image, by their ranks in 0..1 among a number of normal images."""
    found = np.asarray(ranks, np.float64)
    deviation = math.sqrt((len(found) + normal + 1) / (12 * len(found) * normal))
    mean = float(found.mean())
    bins = np.bincount(np.minimum((10 * found).astype(int), 9), minlength=10)
    p_value = math.erfc(abs(mean - 0.5) / deviation / math.sqrt(2))
    return Drift(len(found), mean, p_value, tuple(map(int, bins)))


def rank_of(p_value: float, normal: int) -> float:
    """Return the share, in 0..1, of a number of normal images that score below one with this p-value."""
    return min(max(1 - (p_value * (normal + 1) - 1) / normal, 0.0), 1.0)


def ranks_among(values: Sequence[float], normal: np.ndarray) -> list[float]:
    """Return the share of normal values that are below each value; half of those that are equal count."""
    ascending = np.sort(normal)
    sides = [np.searchsorted(ascending, values, side=side) for side in ("left", "right")]
    return [float(rank) for rank in (sides[0] + sides[1]) / (2 * len(ascending))]


def brightness_of(pixels: np.ndarray) -> float:
    """Return the mean brightness, in 0..255, of pixels uint8 [H, W, 3]."""
    rows = pixels.sum(0, dtype=np.uint32)  # a mean over both edges at once takes fifteen times as long
    return float(rows.sum(0) / (pixels.shape[0] * pixels.shape[1]) @ LUMA)


def normal_brightness(gallery: Gallery, keys: np.ndarray) -> np.ndarray | None:
    """Return the brightness of a gallery's images, of what the backbone sees of each.

    It is that of their thumbnails; of tiles, the mean of each picture's.

    Args:
        gallery: with the images.
        keys: int64 [n], of the images that its calibration scored, at least one.

    Returns:
        float64 [m], of a sample of the images or pictures; None where they have no thumbnails.
    """
    pictures = picture_numbers(gallery, keys)
    if pictures is None:
        pictures = np.arange(len(keys))
    count = int(pictures.max()) + 1
    most = max(1, THUMBNAILS * count // len(keys))
    sample = np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))
    rows = gallery.catalog.images_by_key(keys[np.isin(pictures, sample)].tolist())
    numbers = dict(zip(keys.tolist(), pictures.tolist(), strict=True))
    found: dict[int, list[float]] = {}
    for key, row in rows.items():
        how = gallery.settings.preprocessing
        try:
            thumbnail = Image.open(io.BytesIO(gallery.thumbnail(row)), formats=["JPEG"]).convert("RGB")
        except Exception:  # Pillow raises exceptions of many kinds; features that were added have any thumbnail
            return None
        if how.tile is None:
            left, top, right, bottom = place_of(row.id, row.width, row.height, how).box
            across, down = thumbnail.width / row.width, thumbnail.height / row.height
            thumbnail = thumbnail.crop(
                (round(left * across), round(top * down), round(right * across), round(bottom * down))
            )
        found.setdefault(numbers[key], []).append(brightness_of(np.asarray(thumbnail)))
    return np.array([np.mean(of_picture) for of_picture in found.values()])
