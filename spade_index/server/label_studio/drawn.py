"""The regions that an annotator drew in an image: what they are called, and where each lies."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spade_index.gallery.catalog.defects import KIND_LENGTH
from spade_index.gallery.store.defect import LARGEST
from spade_index.images.geometry import Geometry
from spade_index.method.known_defects import Place
from spade_index.method.named_defects import MOST_PLACES
from spade_index.views.brush import painted_box

TYPES = ("polygonlabels", "rectanglelabels", "brushlabels")
SAME = 0.5  # share of two boxes' union that both cover, from which they are of one region


@dataclass(frozen=True)
class Drawn:
    """A region with its label."""

    label: str
    box: Place | None  # x, y, width, height as shares of the image; may reach beyond it; None: the region is empty


def drawn(result: Any, image: str) -> tuple[Drawn, ...]:
    """Return the regions that a result has in an image, MOST_PLACES at most.

    A region that was drawn twice, as predictions have each with a brush and as a polygon, is taken once: the first.

    Args:
        result: of an annotation, as Label Studio sent it.
        image: the name of the image's tag.

    Raises:
        ValueError: a region cannot be read.
    """
    found: list[Drawn] = []
    for item in result if isinstance(result, list) else []:
        if not isinstance(item, dict) or item.get("type") not in TYPES or item.get("to_name") != image:
            continue
        value = item.get("value")
        if not isinstance(value, dict):
            continue
        label = _label(value, item["type"])
        if label is None or len(found) == MOST_PLACES:
            continue
        box = _box(item, value)
        if box is None or all(other.box is None or _overlap(box, other.box) < SAME for other in found):
            found.append(Drawn(label, box))
    return tuple(found)


def in_pixels(boxes: Sequence[Place], geometry: Geometry) -> list[Place]:
    """Return boxes, given as shares of an image, in its pixels: what lies in it, a pixel at least."""
    edges = geometry.width, geometry.height
    placed: list[Place] = []
    for x, y, width, height in boxes:
        ends = [
            (first * edge, (first + size) * edge)
            for first, size, edge in zip((x, y), (width, height), edges, strict=True)
        ]
        low = [min(max(math.floor(first), 0), edge - 1) for (first, _), edge in zip(ends, edges, strict=True)]
        high = [min(max(math.ceil(last), one + 1), edge) for (_, last), one, edge in zip(ends, low, edges, strict=True)]
        placed.append((low[0], low[1], high[0] - low[0], high[1] - low[1]))
    return placed


def _label(value: dict[str, Any], name: str) -> str | None:
    """Return the label of a region, as the kind of a known defect may be called."""
    labels = value.get(name)
    if not isinstance(labels, list) or not labels or not isinstance(labels[0], str):
        return None
    return "".join(filter(str.isprintable, labels[0])).strip()[:KIND_LENGTH] or None


def _box(item: dict[str, Any], value: dict[str, Any]) -> Place | None:
    """Return the box around a region; None: it is empty. Raises ValueError."""
    try:
        if item["type"] == "polygonlabels":
            return _around([(_number(x) / 100, _number(y) / 100) for x, y in value["points"]])
        size = width, height = _edge(item["original_width"]), _edge(item["original_height"])
        if item["type"] == "rectanglelabels":
            return _around(_corners(value, width, height))
        if not isinstance(value["rle"], list):
            raise TypeError("no list of bytes")
        painted = painted_box(value["rle"], size)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a region of {item['type']} cannot be read") from error
    if painted is None:
        return None
    x, y, across, down = painted
    return x / width, y / height, across / width, down / height


def _corners(value: dict[str, Any], width: int, height: int) -> list[tuple[float, float]]:
    """Return the corners of a rectangle, as shares. It is turned clockwise around its upper left one."""
    left, top, across, down = (_number(value[name]) / 100 for name in ("x", "y", "width", "height"))
    angle = math.radians(_number(value.get("rotation", 0)))
    corners = []
    for x, y in ((0.0, 0.0), (across, 0.0), (across, down), (0.0, down)):
        in_x, in_y = x * width, y * height
        turned = in_x * math.cos(angle) - in_y * math.sin(angle), in_x * math.sin(angle) + in_y * math.cos(angle)
        corners.append((left + turned[0] / width, top + turned[1] / height))
    return corners


def _around(points: Sequence[tuple[float, float]]) -> Place:
    (left, top), (right, below) = (tuple(edge(one) for one in zip(*points, strict=True)) for edge in (min, max))
    return left, top, right - left, below - top


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= LARGEST:
        raise ValueError("no number")
    return float(value)


def _edge(value: Any) -> int:
    if not isinstance(value, int) or not 0 < value <= LARGEST:
        raise ValueError("no size of an image")
    return value


def _overlap(one: Place, other: Place) -> float:
    """Return the share of the union of two boxes that both cover."""
    common = math.prod(
        max(0.0, min(a + size, b + length) - max(a, b))
        for a, b, size, length in zip(one[:2], other[:2], one[2:], other[2:], strict=True)
    )
    union = one[2] * one[3] + other[2] * other[3] - common
    return common / union if union else 1.0
