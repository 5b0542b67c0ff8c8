"""Photographs to ingest where there are none: crops of those that scikit-image carries."""

from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

PICTURES = ("astronaut", "chelsea", "coffee")


def make_photographs(folder: Path, count: int, edge: float, seed: int = 0) -> None:
    """Write JPEGs of `edge` pixels, 000000.jpg and on: crops, turned and lighter or darker, so that few are equal."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    pictures = [getattr(skimage.data, name)() for name in PICTURES]
    edge = min(int(edge), *(min(picture.shape[:2]) for picture in pictures))
    for number in range(count):
        picture = pictures[number % len(pictures)]
        top, left = random.integers(0, picture.shape[0] - edge + 1), random.integers(0, picture.shape[1] - edge + 1)
        crop = np.rot90(picture[top : top + edge, left : left + edge], int(random.integers(4))).astype(np.int16)
        crop += random.integers(-20, 21, 3, np.int16)
        Image.fromarray(crop.clip(0, 255).astype(np.uint8)).save(folder / f"{number:06d}.jpg", quality=90)
