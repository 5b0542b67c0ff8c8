"""Read polygons from JSON: this package's own form, and what LabelMe and COCO write for one image."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

MOST_POINTS = 100_000  # of all polygons
LARGEST = 1e9  # pixels of an edge
FRACTIONS = (1.0, 1.0)  # the size of a picture whose polygons are in fractions of its edges


@dataclass(frozen=True)
class Polygons:
    """Polygons in a picture."""

    points: list[np.ndarray]  # each float64 [n, 2], (x, y); the last point is joined to the first
    size: tuple[float, float]  # width and height of the picture, in the same unit


def polygons_of(value: Any) -> Polygons:
    """Return the polygons of a value read from JSON.

    Raises:
        ValueError: it has none of the known forms, a number is not finite, or a point is outside of the picture.
    """
    if not isinstance(value, dict):
        raise ValueError('polygons are {"polygons": [[[x, y], ...], ...]}, not a list or a number')
    try:
        found, size = _read(value)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its polygons cannot be read ({type(error).__name__}: {error})") from error
    if not found:
        raise ValueError("has no polygons")
    polygons = [_points(points) for points in found]
    if sum(map(len, polygons)) > MOST_POINTS:
        raise ValueError(f"its polygons have more than {MOST_POINTS:,} points")
    for points in polygons:
        if not ((points >= 0) & (points <= size)).all():
            hint = ': points in pixels need "size": [width, height]' if size == FRACTIONS else ""
            raise ValueError(f"a point is outside of the picture of {size[0]:g}x{size[1]:g}{hint}")
    return Polygons(polygons, size)


def _read(value: dict[str, Any]) -> tuple[list[Any], tuple[float, float]]:
    """Return the polygons, as they stand in the file, and the size of their picture."""
    if "polygons" in value:
        return list(value["polygons"]), _size(*value["size"]) if "size" in value else FRACTIONS
    if "shapes" in value:  # LabelMe
        return [_of_shape(shape) for shape in value["shapes"]], _size(value["imageWidth"], value["imageHeight"])
    if "annotations" in value:  # COCO
        if len(value["images"]) != 1:
            raise ValueError(f"annotations of {len(value['images'])} images, not of one")
        (image,) = value["images"]
        parts = [part for one in value["annotations"] for part in _of_annotation(one)]
        return parts, _size(image["width"], image["height"])
    raise ValueError('none of "polygons", "shapes" (LabelMe) and "annotations" (COCO) is there')


def _of_shape(shape: dict[str, Any]) -> Any:
    """Return a shape of LabelMe as a polygon."""
    kind, points = shape.get("shape_type", "polygon"), shape["points"]
    if kind == "polygon":
        return points
    if kind == "rectangle":
        (left, top), (right, bottom) = points
        return _rectangle(left, top, right, bottom)
    raise ValueError(f"a shape is a {kind}: draw polygons or rectangles")


def _of_annotation(annotation: dict[str, Any]) -> list[Any]:
    """Return the polygons of an annotation of COCO: of its box, where nothing else is drawn."""
    parts = annotation.get("segmentation")
    if isinstance(parts, dict):
        raise ValueError("an annotation is a mask of run lengths: save polygons, or a mask picture")
    if parts:
        return [list(zip(part[::2], part[1::2], strict=True)) for part in parts]
    left, top, width, height = annotation["bbox"]
    return [_rectangle(left, top, left + width, top + height)]


def _rectangle(left: Any, top: Any, right: Any, bottom: Any) -> list[list[Any]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def _size(width: Any, height: Any) -> tuple[float, float]:
    if any(isinstance(edge, bool) or not isinstance(edge, int | float) for edge in (width, height)):
        raise ValueError("the size of a picture is two numbers")
    size = (math.inf, math.inf) if max(width, height) > LARGEST else (float(width), float(height))
    if not all(math.isfinite(edge) and edge > 0 for edge in size):
        raise ValueError(f"a picture of {width}x{height}")
    return size


def _points(points: Any) -> np.ndarray:
    if not isinstance(points, list) or len(points) < 3:
        raise ValueError("a polygon has at least three points")
    if not all(isinstance(point, list | tuple) and len(point) == 2 for point in points):
        raise ValueError("a point of a polygon is [x, y]")
    if any(isinstance(number, bool) or not isinstance(number, int | float) for point in points for number in point):
        raise ValueError("a coordinate of a polygon is not a number")
    try:
        found = np.array(points, np.float64)
    except OverflowError:
        raise ValueError("a coordinate of a polygon is not finite") from None
    if not np.isfinite(found).all():
        raise ValueError("a coordinate of a polygon is not finite")
    return found
