"""Where defects lie in an image, and of which kind each is, as the client sends it."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from spade_index.errors import InputError

Box = tuple[float, float, float, float]  # x, y, width, height in pixels of the image
Kind = str | Mapping[Box, str]  # of all defects, or of each by its box


def of_kind(kind: Kind, box: Box | None) -> dict[str, Any]:
    """Return the parameters of a request that say where defects lie, and of which kind they are. Raises InputError."""
    boxes = [] if box is None else [_text(box)]
    if isinstance(kind, str):
        return {"kind": kind, "box": boxes}
    if not isinstance(kind, Mapping) or not all(isinstance(name, str) for name in kind.values()):
        raise InputError(f"kind must be a text, or the kinds by their boxes, not {kind!r:.100}")
    return {"box": boxes + [f"{_text(place)}:{name}" if name else _text(place) for place, name in kind.items()]}


def _text(box: Box) -> str:
    sides = [*box] if isinstance(box, Iterable) and not isinstance(box, str) else []
    if len(sides) != 4 or not all(isinstance(side, int | float | np.number) and math.isfinite(side) for side in sides):
        raise InputError(f"a box must be X, Y, WIDTH, HEIGHT in pixels, not {box!r:.100}")
    return ",".join(map(str, sides))
