"""Where defects lie in an image, and of which kind each is, as the client sends it."""

from collections.abc import Mapping
from typing import Any

Box = tuple[float, float, float, float]  # x, y, width, height in pixels of the image
Kind = str | Mapping[Box, str]  # of all defects, or of each by its box


def of_kind(kind: Kind, box: Box | None) -> dict[str, Any]:
    """Return the parameters of a request that say where defects lie, and of which kind they are."""
    boxes = [] if box is None else [_text(box)]
    if isinstance(kind, str):
        return {"kind": kind, "box": boxes}
    return {"box": boxes + [f"{_text(place)}:{name}" if name else _text(place) for place, name in kind.items()]}


def _text(box: Box) -> str:
    return ",".join(map(str, box))
