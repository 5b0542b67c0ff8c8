"""Image files and forms to send to a service."""

import io
from typing import Any

import numpy as np
from PIL import Image


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """Encode an image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def odd(shade: int = 255) -> bytes:
    """Return an image file of 40x36 pixels that is unlike all images of the galleries; `shade` is of its stripes."""
    stripes = np.arange(40) // 2 % 2 * np.full((36, 1), shade)
    return encoded(Image.fromarray(stripes.astype(np.uint8)).convert("RGB"))


def parts(*files: tuple[str, bytes], field: str = "images") -> list[tuple[str, tuple[str, bytes, str]]]:
    """Return the files of a form as httpx expects them."""
    return [(field, (name, data, "application/octet-stream")) for name, data in files]
