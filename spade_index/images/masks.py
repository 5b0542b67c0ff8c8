"""Read ground-truth masks."""

from pathlib import Path

import numpy as np
from PIL import Image

from spade_index.errors import InputError

from .decode import Geometry, decode

MASK_FROM = 128  # grey level from which a pixel of a mask is defective


def read_mask(path: Path | None, geometry: Geometry, size: tuple[int, int]) -> np.ndarray:
    """Read the mask of an image, resized and cropped as the backbone's input is.

    Args:
        path: of the mask; None for an image without defects.
        geometry: of the image that the mask belongs to.
        size: (H, W) of the result.

    Returns:
        bool [H, W], True where defective, resized by nearest neighbour.

    Raises:
        InputError: the file cannot be decoded, or it does not have the size of its image.
    """
    if path is None:
        return np.zeros(size, bool)
    try:
        mask = decode(path.read_bytes(), str(path)).convert("L")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if mask.size != (geometry.width, geometry.height):
        raise InputError(f"{path}: is {mask.size}, but its image is {(geometry.width, geometry.height)}")
    fitted = mask.resize(size[::-1], Image.Resampling.NEAREST, box=geometry.box)
    return np.asarray(fitted) >= MASK_FROM
