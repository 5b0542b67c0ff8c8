"""Draw photographs of washers for the notebooks: brushed metal with six holes, and three kinds of defects.

No two pictures are of the same part, light or place, as of parts on a line.
"""

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

EDGE = 160  # pixels
HOLES = 6
Drawn = tuple[Image.Image, Image.Image]  # a picture, and the mask of its defect; both 8-bit grey


def write_dataset(root: Path, normal: int = 40, test: int = 8) -> None:
    """Write pictures of parts in MVTec layout: train/good, test/KIND, ground_truth/KIND; the same on every call.

    `normal` is the number of good parts to learn from, `test` that of good parts, and of parts of each kind of defect,
    to test with.
    """
    random = np.random.default_rng(0)
    for number in range(normal):
        _save(part(random), root / "train" / "good" / f"{number:03d}.png")
    for number in range(test):
        _save(part(random), root / "test" / "good" / f"{number:03d}.png")
    for kind, spoil in DEFECTS.items():
        for number in range(test):
            picture, mask = spoil(random)
            _save(picture, root / "test" / kind / f"{number:03d}.png")
            _save(mask, root / "ground_truth" / kind / f"{number:03d}_mask.png")


def part(random: np.random.Generator, closed: bool = False) -> Image.Image:
    """Draw a good part: 8-bit grey [EDGE, EDGE]; or with its first hole closed."""
    return _part(random, closed)[0]


def _part(random: np.random.Generator, closed: bool) -> tuple[Image.Image, tuple[float, float]]:
    """Draw a part; return it with the place of its first hole."""
    centre = EDGE / 2 + random.uniform(-4, 4, 2)
    turned = random.uniform(-0.15, 0.15)
    metal = random.normal(0, 1, (EDGE, EDGE)).astype(np.float32)
    brushed = Image.fromarray(metal).resize((EDGE // 8, EDGE)).resize((EDGE, EDGE))
    y, x = np.mgrid[:EDGE, :EDGE] / EDGE - 0.5
    light = 165 + random.uniform(-8, 8) + random.uniform(-20, 20) * x + random.uniform(-20, 20) * y
    face = light + 9 * np.asarray(brushed) / np.std(brushed) + random.normal(0, 3, (EDGE, EDGE))
    shape = Image.new("L", (EDGE, EDGE))
    draw = ImageDraw.Draw(shape)
    _disc(draw, centre, 66, 255)
    _disc(draw, centre, 20, 0)
    angles = turned + 2 * math.pi * np.arange(HOLES) / HOLES
    holes = [centre + 43 * np.array([math.cos(angle), math.sin(angle)]) for angle in angles]
    for hole in holes[int(closed) :]:
        _disc(draw, hole, 8, 0)
    soft = np.asarray(shape.filter(ImageFilter.GaussianBlur(0.8))) / 255
    below = 45 + random.normal(0, 4, (EDGE, EDGE))
    return _picture(soft * face + (1 - soft) * below), tuple(holes[0])


def scratched(random: np.random.Generator) -> Drawn:
    """Draw a part with a thin bright line across its face."""
    angle, radius = random.uniform(0, 2 * math.pi), random.uniform(30, 50)
    middle = EDGE / 2 + radius * np.array([math.cos(angle), math.sin(angle)])
    along = random.uniform(12, 18) * np.array([-math.sin(angle + 0.4), math.cos(angle + 0.4)])
    mask = Image.new("L", (EDGE, EDGE))
    ImageDraw.Draw(mask).line([tuple(middle - along), tuple(middle + along)], fill=255, width=3)
    return Image.composite(
        Image.new("L", mask.size, 235), part(random), mask.filter(ImageFilter.GaussianBlur(0.6))
    ), mask


def stained(random: np.random.Generator) -> Drawn:
    """Draw a part with a soft dark blot on its face."""
    angle, radius = random.uniform(0, 2 * math.pi), random.uniform(30, 55)
    mask = Image.new("L", (EDGE, EDGE))
    _disc(ImageDraw.Draw(mask), EDGE / 2 + radius * np.array([math.cos(angle), math.sin(angle)]), 9, 255)
    good, left = part(random), random.uniform(0.6, 0.8)  # of the light
    return Image.composite(good.point(lambda value: value * left), good, mask.filter(ImageFilter.GaussianBlur(3))), mask


def closed(random: np.random.Generator) -> Drawn:
    """Draw a part of which one hole was not drilled."""
    picture, hole = _part(random, closed=True)
    mask = Image.new("L", (EDGE, EDGE))
    _disc(ImageDraw.Draw(mask), hole, 8, 255)
    return picture, mask


DEFECTS = {"scratched": scratched, "stained": stained, "closed": closed}


def beside(*pictures: Image.Image) -> Image.Image:
    """Return pictures in a row."""
    row = Image.new("RGB", (sum(picture.width for picture in pictures), max(picture.height for picture in pictures)))
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width
    return row


def _disc(draw: ImageDraw.ImageDraw, centre: np.ndarray | tuple[float, float], radius: float, value: int) -> None:
    x, y = centre
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=value)


def _picture(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
