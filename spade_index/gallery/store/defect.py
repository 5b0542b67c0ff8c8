"""One known defect on its way into a gallery: where it lies in its image, and what is stored of it."""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from spade_index.exact import read_json
from spade_index.settings import ExtractionSettings

MOST_POINTS = 500  # of a polygon
LARGEST = 1 << 24  # pixels of an image's edge

Found = Literal["region", "box", "highest"]


@dataclass(frozen=True)
class DefectPlace:
    """Where a known defect lies, in pixels of its upright original."""

    found: Found  # a region of the query, a box that a person gave, or the place of the highest score
    box: tuple[float, ...]  # x, y, width, height
    polygon: tuple[tuple[float, ...], ...]  # (x, y); the last point is joined to the first
    size: tuple[int, ...]  # width and height of the original

    def to_json(self) -> str:
        """Return the place as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "DefectPlace":
        """Return the place that `to_json` wrote. Raises ValueError: anything may be there by now."""
        try:
            value = read_json(text)
            polygon = tuple(map(tuple, value["polygon"]))
            place = cls(value["found"], tuple(value["box"]), polygon, tuple(value["size"]))
            plausible = place._is_plausible()
        except (AttributeError, KeyError, OverflowError, RecursionError, TypeError) as error:
            raise ValueError(f"its place cannot be read ({error!r})") from error
        if not plausible:
            raise ValueError("its place is not one in an image")
        return place

    def _is_plausible(self) -> bool:
        """Return whether an image can have such a place. May raise TypeError."""
        numbers: list[Any] = [*self.box, *(edge for point in self.polygon for edge in point)]
        return (
            self.found in get_args(Found)
            and len(self.box) == len(self.size) + 2 == 4
            and all(type(edge) is int and 0 < edge <= LARGEST for edge in self.size)
            and 3 <= len(self.polygon) <= MOST_POINTS
            and {len(point) for point in self.polygon} == {2}
            and all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
            and all(0 <= number <= LARGEST for number in numbers)
        )


def channels_of(settings: ExtractionSettings) -> int:
    """Return the length of a known defect's features: the channels of all levels."""
    return sum(channels for channels, _, _ in settings.level_shapes)


@dataclass(frozen=True)
class NewDefect:
    """A place that a person called defective, with what tells it from others."""

    place: DefectPlace
    kind: str  # as the person named it; empty where no kind was said
    score: float  # the score map's maximum there
    features: np.ndarray  # float16 [D], the levels' vectors, the finest level first
    picture: bytes  # a small JPEG of the place
