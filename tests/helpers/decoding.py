"""Decode the bytes of image files, or tell why they are refused."""

import numpy as np
import pytest

from spade_index.errors import ImageError
from spade_index.images import decode
from spade_index.settings import Preprocessing

NAME = "folder/x.png"


def read(data: bytes, name: str = NAME, **how: object) -> np.ndarray:
    """Return the pixels of an image file in RGB, uint8 [H, W, 3]; `how` are fields of Preprocessing."""
    image = decode(data, name, how=Preprocessing(**how))  # type: ignore[arg-type]
    assert image.mode == "RGB"
    return np.asarray(image)


def refusal(data: bytes, name: str = NAME, **how: object) -> str:
    """Return the message of the ImageError that refuses an image file: one line that names it."""
    with pytest.raises(ImageError) as raised:
        read(data, name, **how)
    message = str(raised.value)
    assert message.startswith(f"{name}: ")
    assert "\n" not in message
    return message
