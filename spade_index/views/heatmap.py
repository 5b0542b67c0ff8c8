"""Draw score maps as colours over the original image, aligned with it."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageColor

from spade_index.images.geometry import Geometry

# Equally spaced colours of matplotlib's `inferno` (CC0): lightness rises evenly, also for colour-blind people. Its
# darkest quarter is left out, because it could not be seen over a dark image.
ANCHORS = ("#57106e", "#8a226a", "#bc3754", "#e35933", "#f98c0a", "#f9c932", "#fcffa4")


def _shades() -> NDArray[np.uint8]:
    """Return 256 colours from the first anchor to the last, uint8 RGB [256, 3]."""
    anchors = np.array([ImageColor.getrgb(anchor) for anchor in ANCHORS])
    places = np.linspace(0, len(anchors) - 1, 256)
    channels = [np.interp(places, np.arange(len(anchors)), channel) for channel in anchors.T]
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8)


SHADES = _shades()

ROWS = 128  # that are drawn at a time: of a large picture, all of them would take a gigabyte
OUTSIDE_DIMMED = 0.35  # opacity of the black over what the backbone did not see, and what does not count


def colourise(values: ArrayLike, limits: tuple[float, float]) -> NDArray[np.uint8]:
    """Return colours from dark (low) to bright (high), perceptually uniform.

    Args:
        values: [H, W] numbers; those outside the limits are clipped.
        limits: (low, high); if both are equal, larger values are bright.

    Returns:
        [H, W, 3] uint8, RGB.
    """
    return SHADES[np.rint(_fraction(np.asarray(values), limits) * 255).astype(np.uint8)]


def score_limits(scores: Iterable[ArrayLike], threshold: float | None = None) -> tuple[float, float]:
    """Return limits (low, high) shared by the heat maps of a page, so that equal colours mean equal scores.

    Low is the smallest median of the score maps; high is the upper quartile of their maxima. With a threshold, high is
    clipped so that the threshold lies between a third and half of the scale: normal images do not look alarming, and
    one extreme defect does not darken the others.

    Args:
        scores: score maps [H, W], or just their maxima.
        threshold: of the score map's values; without effect if it is not above low.
    """
    arrays = [array for array in map(np.asarray, scores) if array.size]
    # A maximum alone says nothing about the rest of the map; half of it keeps the calmest image dark.
    quiet = [float(array) / 2 if array.ndim == 0 else float(np.median(array)) for array in arrays]
    low = min(quiet, default=0.0)
    high = float(np.quantile([array.max() for array in arrays], 0.75)) if arrays else low + 1.0
    if threshold is not None and threshold > low:
        high = min(max(high, low + 2 * (threshold - low)), low + 3 * (threshold - low))
    return low, high


def heatmap(
    image: Image.Image,
    score_map: NDArray[np.float32],
    geometry: Geometry,
    limits: tuple[float, float],
    opacity: float = 0.5,
    inside: NDArray[np.bool_] | None = None,
) -> Image.Image:
    """Return an image with its score map over it.

    The overlay is transparent at the low limit and nearly opaque at the high limit, so normal places stay visible. What
    the backbone did not see, outside `geometry.box`, is dimmed, and so is what is outside of a region of interest.

    Args:
        image: the upright original, RGB, or a smaller copy of it.
        score_map: [h, w] float32, covering `geometry.box`.
        geometry: the original's size and the box, in its pixels.
        limits: (low, high) of the colour scale.
        opacity: of the overlay halfway between the limits, 0..1.
        inside: bool [h, w], the pixels of the score map in the region of interest; None: all.

    Returns:
        RGB, of the image's size.
    """
    overlay = heat(image.size, score_map, geometry, limits, opacity, inside)
    drawn = image.convert("RGB")  # a copy
    drawn.paste(overlay.convert("RGB"), mask=overlay.getchannel("A"))
    return drawn


def heat(
    size: tuple[int, int],
    score_map: NDArray[np.float32],
    geometry: Geometry,
    limits: tuple[float, float],
    opacity: float = 0.5,
    inside: NDArray[np.bool_] | None = None,
) -> Image.Image:
    """Return the overlay of `heatmap` alone, RGBA of this (width, height), for clients that compose it themselves."""
    scores, seen = on_image(score_map, geometry, size)
    if inside is not None:
        seen &= on_image(inside.astype(np.float32), geometry, size)[0] >= 0.5
    drawn = np.empty((*scores.shape, 4), np.uint8)
    for top in range(0, len(scores), ROWS):
        rows = slice(top, top + ROWS)
        level = _fraction(scores[rows], limits)
        cover = np.where(seen[rows], 1 - (1 - opacity) ** (2 * level), OUTSIDE_DIMMED)
        drawn[rows, :, :3] = colourise(scores[rows], limits)
        drawn[rows, :, :3][~seen[rows]] = 0
        drawn[rows, :, 3] = np.rint(cover * 255)
    return Image.fromarray(drawn)


def _fraction(values: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.float32]:
    """Return the position of values between the limits, 0..1."""
    low, high = limits
    if high <= low:
        return (values > high).astype(np.float32)
    return np.clip((values.astype(np.float32) - low) / (high - low), 0, 1)


def on_image(
    score_map: NDArray[np.float32], geometry: Geometry, size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the score map resampled to an image of this (width, height), [H, W], and a mask of where it covers it."""
    x_scale, y_scale = size[0] / geometry.width, size[1] / geometry.height
    left, right = geometry.box[0] * x_scale, geometry.box[2] * x_scale
    top, bottom = geometry.box[1] * y_scale, geometry.box[3] * y_scale
    field = Image.fromarray(np.ascontiguousarray(score_map, dtype=np.float32))
    # Sampling a large map at few points could miss a small peak; resize() uses every value.
    covered = (max(1, math.ceil(right - left)), max(1, math.ceil(bottom - top)))
    field = field.resize((min(field.width, covered[0]), min(field.height, covered[1])), Image.Resampling.BILINEAR)
    across, down = field.width / (right - left), field.height / (bottom - top)
    to_field = (across, 0, -left * across, 0, down, -top * down)
    scores = field.transform(size, Image.Transform.AFFINE, to_field, Image.Resampling.BILINEAR)
    x, y = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
    seen = ((top <= y) & (y <= bottom))[:, None] & ((left <= x) & (x <= right))
    return np.asarray(scores), seen
