"""Image files and forms to send to a service."""

import io
from typing import Any

import numpy as np
from PIL import Image

from .tiny import random_image


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """Encode an image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def odd(shade: int = 255) -> bytes:
    """Return an image file of 40x36 pixels that is unlike all images of the galleries; `shade` is of its stripes."""
    stripes = np.arange(40) // 2 % 2 * np.full((36, 1), shade)
    return encoded(Image.fromarray(stripes.astype(np.uint8)).convert("RGB"))


def spotted(seed: int = 4) -> bytes:
    """Return an image file of 40x36 pixels with patterns in its corners: several regions; `seed` is of the rest."""
    pixels = np.array(random_image(seed))
    checks, stripes = (np.indices((9, 10)).sum(0) // 2 % 2, np.indices((9, 10))[1] // 2 % 2)
    for x, y, pattern in ((0, 0, checks), (30, 0, stripes), (0, 27, checks), (30, 27, stripes)):
        pixels[y : y + 9, x : x + 10] = 255 * pattern[..., None]
    return encoded(Image.fromarray(pixels))


def parts(*files: tuple[str, bytes], field: str = "images") -> list[tuple[str, tuple[str, bytes, str]]]:
    """Return the files of a form as httpx expects them."""
    return [(field, (name, data, "application/octet-stream")) for name, data in files]
