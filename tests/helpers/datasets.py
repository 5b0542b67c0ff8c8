"""A dataset in MVTec layout: images of one object with two kinds of defect."""

from pathlib import Path

import numpy as np
from PIL import Image

from helpers.tiny import random_image

SIZE = (48, 40)
BOXES = {"scratch": (4, 20, 40, 24), "hole": (24, 8, 34, 18)}


def normal(seed: int) -> Image.Image:
    """Return an image of the object, with noise that depends on the seed."""
    noise = np.random.default_rng(seed).integers(-10, 11, (SIZE[1], SIZE[0], 3))
    return Image.fromarray((np.asarray(random_image(1, SIZE)).astype(int) + noise).clip(0, 255).astype(np.uint8))


def write_dataset(root: Path, good: int = 4, bad: int = 3) -> Path:
    """Write a dataset with white scratches and white holes; return its folder."""
    for folder, count, start in ((root / "train" / "good", 12, 0), (root / "test" / "good", good, 100)):
        folder.mkdir(parents=True)
        for number in range(count):
            normal(start + number).save(folder / f"{number:03d}.png")
    for kind, box in BOXES.items():
        (root / "test" / kind).mkdir()
        (root / "ground_truth" / kind).mkdir(parents=True)
        for number in range(bad):
            image, mask = normal(200 + number), Image.new("L", SIZE)
            image.paste("white", box)
            mask.paste(255, box)
            image.save(root / "test" / kind / f"{number:03d}.png")
            mask.save(root / "ground_truth" / kind / f"{number:03d}_mask.png")
    return root
