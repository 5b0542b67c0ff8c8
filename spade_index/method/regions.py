"""Regions: the places of a score map above a threshold, as polygons in the pixels of the original image.

Coordinates are continuous: the pixel in column 0 covers x from 0 to 1. A polygon follows the line where the score map,
interpolated linearly between its pixels, crosses the threshold.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import cast

import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray
from scipy import ndimage

from spade_index.errors import InputError
from spade_index.images.geometry import Geometry

from .detection import Detection
from .known_defects import KnownDefects, Likeness, Samples
from .outline import enclosed_area, simplify

Polygon = tuple[tuple[float, float], ...]  # (x, y); the last point is joined to the first

MOST_REGIONS = 100  # of an image, those with the highest scores
MOST_POINTS = 500  # of a polygon
SPECK = 0.25  # cells of the comparison grid; smaller regions are dropped
HOLE = 1.0  # cells; smaller holes are filled
TOLERANCE = 0.25  # pixels of the score map by which a polygon may leave the line where the threshold is crossed
EVERY_NEIGHBOUR = np.ones((3, 3), bool)  # pixels that touch at a corner are one region


@dataclass(frozen=True)
class Region:
    """A place that looks wrong, in pixels of the original image (upright: EXIF rotation applied)."""

    polygon: Polygon  # the outer boundary
    box: tuple[float, float, float, float]  # x, y, width, height
    area: float  # without the holes
    score: float  # the maximum of the score map inside
    holes: tuple[Polygon, ...] = ()  # large normal places inside
    known: Likeness | None = None  # the known defect that it is most like; None: the gallery knows none


def regions_of(detection: Detection, geometry: Geometry) -> list[Region] | None:
    """Return the regions of an image; None where it has no score map, or the gallery no threshold for score maps.

    Args:
        detection: of the image.
        geometry: where the backbone's input lies in the image.

    Raises:
        InputError: the score map is not finite.
    """
    if detection.pixels is None or detection.pixel_threshold is None:
        return None
    score_map, inside = detection.pixels.score_map, detection.pixels.inside
    if inside is not None:  # nothing outside is above the threshold, however low that is
        score_map = np.where(
            inside,
            score_map,
            np.minimum(score_map, np.nextafter(np.float32(detection.pixel_threshold), np.float32(-np.inf))),
        )
    regions = find_regions(score_map, detection.pixel_threshold, geometry, detection.pixels.size)
    if detection.known is None or not regions:
        return regions
    samples = Samples(detection.pixels.samples(geometry.box))
    return [replace(region, known=_likeness(detection.known, samples, region)) for region in regions]


def _likeness(known: KnownDefects, samples: Samples, region: Region) -> Likeness | None:
    features = samples.worst(region.box, region.polygon)
    return None if features is None else known.most_like(features)


def find_regions(
    score_map: NDArray[np.float32], threshold: float, geometry: Geometry, grid: tuple[int, int]
) -> list[Region]:
    """Return the regions of a score map above a threshold, the highest score first; at most MOST_REGIONS.

    An image whose maximum is above the threshold has at least one region.

    Args:
        score_map: [H, W] float32, covering `geometry.box`.
        threshold: of the score map; infinite where nothing can be above it.
        geometry: the original's size, and the part of it that the score map covers.
        grid: (rows, columns) of the finest level that was compared. Its cells say what is a speck.

    Raises:
        InputError: the threshold is not a number, or the score map is not finite.
    """
    if math.isnan(threshold) or threshold == -math.inf:
        raise InputError(f"the threshold of the score map is {threshold}: give a number")
    if not np.isfinite(score_map).all():
        raise InputError("the score map has values that are not finite: no regions can be found in it")
    if float(score_map.max()) <= threshold:
        return []
    labels, peaks = _labelled(score_map, threshold, grid)
    # Above 0 inside and below 0 outside, in the filled holes and the dropped specks too; clearly, against rounding.
    height = np.pad(score_map.astype(np.float64) - threshold, 1, mode="edge")
    height = np.maximum(abs(height), 1e-3 * height.max())
    framed = np.pad(labels, 1)  # the mirrored values of the frame put the boundary of a region at the map's edge
    places = ndimage.find_objects(framed)
    found = []
    for label in sorted(peaks, key=lambda label: -peaks[label])[:MOST_REGIONS]:
        rows, columns = (slice(place.start - 1, place.stop + 1) for place in places[label - 1])
        inside = framed[rows, columns] == label
        field = np.where(inside, height[rows, columns], -height[rows, columns])
        corner = np.array([columns.start - 0.5, rows.start - 0.5])
        contours = [contour + corner for contour in _contours(_joined(field))]
        found.append(_region(contours, score_map.shape, geometry, peaks[label]))
    return found


def cleaned(score_map: NDArray[np.float32], threshold: float, grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Return where a score map is above a threshold, bool [H, W]: small holes filled, specks dropped.

    A speck that holds the map's maximum stays.
    """
    above = score_map.astype(np.float64) > threshold
    cell = score_map.size / (grid[0] * grid[1])  # pixels
    gaps, _ = ndimage.label(~above)
    sizes = np.bincount(gaps.ravel())
    outside = np.concatenate([gaps[0], gaps[-1], gaps[:, 0], gaps[:, -1]])  # what touches the edge is no hole
    small = sizes < HOLE * cell
    small[outside] = False
    above |= small[gaps]
    parts, _ = ndimage.label(above, EVERY_NEIGHBOUR)
    large = np.bincount(parts.ravel()) >= SPECK * cell
    large[parts.ravel()[score_map.argmax()]] = True
    large[0] = False
    return large[parts]


def _labelled(
    score_map: NDArray[np.float32], threshold: float, grid: tuple[int, int]
) -> tuple[NDArray[np.int32], dict[int, float]]:
    """Return the region of each pixel, from 1 (0: none), int32 [H, W], and the maximum of each region."""
    labels, count = ndimage.label(cleaned(score_map, threshold, grid), EVERY_NEIGHBOUR)
    numbers = range(1, count + 1)
    peaks = ndimage.maximum(score_map, labels, numbers)
    return labels, {number: float(peak) for number, peak in zip(numbers, peaks, strict=True)}


def _joined(field: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a field with values raised, not above 0, where two pixels above 0 touch only at a corner.

    There, contourpy joins the two where the mean of the four pixels around the corner is above 0.
    """
    joined = field.copy()
    first, second = slice(None, -1), slice(1, None)
    falling, rising = ((first, first), (second, second)), ((first, second), (second, first))
    for (one, other), between in ((falling, rising), (rising, falling)):
        least = np.minimum(field[one], field[other])
        crossed = (least > 0) & (field[between[0]] < 0) & (field[between[1]] < 0)
        for pixels in between:
            np.copyto(joined[pixels], np.maximum(joined[pixels], -least / 2), where=crossed)
    return joined


def _contours(field: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Yield the outer boundary of the part of a field above 0, then its holes: float64 [n, 2], (column, row)."""
    generator = contour_generator(z=field, name="serial", fill_type=FillType.OuterOffset)
    points, offsets = cast(tuple[list[NDArray[np.float64]], list[NDArray[np.uint32]]], generator.filled(0, np.inf))
    assert len(points) == 1, "a region is connected"
    for start, end in pairwise(offsets[0]):
        yield points[0][start : end - 1]  # without the last point, which is the first


def _region(contours: list[NDArray[np.float64]], size: tuple[int, ...], geometry: Geometry, score: float) -> Region:
    """Return a region of contours in pixels of a score map [H, W] of this size."""
    left, top, right, bottom = geometry.box
    scale = (right - left) / size[1], (bottom - top) / size[0]  # pixels of the original in one of the map
    placed = [simplify(contour, TOLERANCE, MOST_POINTS) * scale + (left, top) for contour in contours]
    rounded = [np.clip(contour, (left, top), (right, bottom)).round(1) for contour in placed]
    outer, *holes = (_distinct(contour) for contour in rounded)
    low, high = outer.min(0), outer.max(0)
    holes = [hole for hole in holes if len(hole) > 2]
    area = enclosed_area(outer) - sum(enclosed_area(hole) for hole in holes)
    if (high - low).min() < 1 or area < 1:  # too small to be seen: the whole pixels that it touches
        size_of = (geometry.width, geometry.height)
        low = np.minimum(np.floor(low), np.subtract(size_of, 1))
        high = np.maximum(np.ceil(high), low + 1)
        outer, holes = np.array([low, (high[0], low[1]), high, (low[0], high[1])]), []
        area = enclosed_area(outer)
    x, y, width, height = (round(float(edge), 1) for edge in (*low, *(high - low)))
    open_inside = tuple(_polygon(hole) for hole in holes)
    return Region(_polygon(outer), (x, y, width, height), round(area, 1), score, open_inside)


def _distinct(contour: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a closed polygon float64 [n, 2] without points that repeat the one before."""
    moved = (contour != np.roll(contour, 1, axis=0)).any(1)
    return contour[moved] if moved.any() else contour[:1]


def _polygon(points: NDArray[np.float64]) -> Polygon:
    return tuple((float(x), float(y)) for x, y in points)
