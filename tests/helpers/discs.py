"""Pictures of a bright disc on a dark ground, normal and with defects that one of two scales tells."""

import io

import numpy as np
from PIL import Image

from spade_index.images.files import ImageFile

from helpers.tiny import image_file

EDGE = 160  # pixels
DOT = (20, 120)  # column and row of the small defect


def disc(id: str, seed: int, *, missing: bool = False, dotted: bool = False) -> ImageFile:
    """Return a picture in memory.

    Args:
        id: its id.
        seed: of its noise and brightness.
        missing: leave out the disc, which is larger than a tile: what is there is ground as elsewhere.
        dotted: with dots of a pixel on the ground, whose mean is that of the ground: shrunk, they are gone.
    """
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:EDGE, :EDGE]
    inside = np.hypot(row - EDGE / 2, column - EDGE / 2) < EDGE / 4
    grey = 60 + rng.uniform(-4, 4) + (0 if missing else 100 * inside) + rng.normal(0, 6, (EDGE, EDGE))
    if dotted:
        x, y = DOT
        spot = (slice(y - 5, y + 5), slice(x - 5, x + 5))
        grey[spot] += np.where((row + column)[spot] % 2, 55, -55)
    buffer = io.BytesIO()
    Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB").save(buffer, "PNG")
    return image_file(id, buffer.getvalue())
