"""Four products that are drawn, with defects and masks, in MVTec AD's layout: a screw, a cap, cloth and a pill.

They show what photographs of products do: parts that lie turned, a texture without a place, speckles that are never the
same, small and faint defects. None of the defects is drawn as those that `tune` pastes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

EDGE = 512  # pixels
GOOD, DEFECTIVE = 100, 100  # test images
Random = np.random.Generator
Y, X = np.mgrid[:EDGE, :EDGE].astype(np.float32)


@dataclass(frozen=True)
class Drawn:
    """A product, float32 [H, W, 3], values 0..255, and which pixels show it, bool [H, W]."""

    pixels: np.ndarray
    inside: np.ndarray
    along: np.ndarray | None = None  # of a screw, float32 [H, W]: pixels from its middle towards the tip
    across: np.ndarray | None = None


Defect = tuple[np.ndarray, np.ndarray, str]  # pixels, mask bool [H, W], and the kind


def clouds(random: Random, scale: float) -> np.ndarray:
    """Return smooth noise of mean 0 and deviation 1, float32 [H, W], whose spots have about `scale` pixels."""
    coarse = max(1, int(scale / 8))  # pixels that are drawn as one, and enlarged
    edge = EDGE // coarse + 1
    noise = gaussian_filter(random.standard_normal((edge, edge), np.float32), scale / 2 / coarse, mode="wrap")
    smooth = np.asarray(Image.fromarray(noise).resize((EDGE, EDGE), Image.Resampling.BICUBIC))
    return (smooth - smooth.mean()) / smooth.std()


def screw(random: Random) -> Drawn:
    """Draw a screw that lies at any angle."""
    angle, length = random.uniform(0, 2 * np.pi), 150
    x, y = (pixels - EDGE / 2 - random.normal(0, 12) for pixels in (X, Y))
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    turns, light = random.uniform(0, 1), random.uniform(-8, 8)
    radius = 20 + 3.5 * abs((along / 14 + turns) % 1 * 2 - 1) * (along > -60)
    radius *= np.clip((length - along) / 30, 0, 1)
    body = (abs(across) < radius) & (along > 40 - length) & (along < length)
    shade = 90 + 90 * np.sqrt(np.clip(1 - (across / np.maximum(radius, 1)) ** 2, 0, 1)) - 30 * (across > 8)
    thread = 35 * np.sin(2 * np.pi * (along / 14 + across / 70 + turns)) * (along > -60)
    cone = (abs(across) < 44) & (along > 25 - length) & (along < 40 - length)
    head = (((along + length - 30) / 22) ** 2 + (across / 44) ** 2 < 1) | cone
    grey = 190 + 4 * clouds(random, 100) + 20 * (X / EDGE - 0.5)
    grey = np.where(body, shade + thread + light, grey)
    grey = np.where(head, 130 + 50 * np.exp(-(((across + 12) / 18) ** 2)) + light, grey)
    return Drawn(grey[..., None].repeat(3, 2), body | head, along, across)


def spoiled_screw(drawn: Drawn, random: Random) -> Defect:
    """Flatten a turn of the thread, scratch the head or the neck, or break off the tip."""
    kind = str(random.choice(["thread", "head", "neck", "tip"]))
    along, across = drawn.along, drawn.across
    assert along is not None
    assert across is not None
    if kind == "thread":
        mask = (abs(along - random.uniform(-40, 90)) < 14) & (abs(across - random.choice([-17, 17])) < 9)
    elif kind == "head":
        mask = (abs(0.4 * (along + 120) + across - random.uniform(-25, 25)) < 2.5) & (along < -108) & drawn.inside
    elif kind == "neck":
        mask = (abs(along + 0.3 * across - random.uniform(-95, -62)) < 2.2) & drawn.inside
    else:
        mask = (along > 132) & drawn.inside
    pixels = drawn.pixels.copy()
    pixels[mask] = {"thread": 150, "head": 225, "neck": 50, "tip": 188}[kind]
    return pixels, mask, kind


def cap(random: Random) -> Drawn:
    """Draw a bottle's cap from above, turned by any angle."""
    x, y = (pixels - EDGE / 2 - random.normal(0, 6) for pixels in (X, Y))
    radius, angle = np.hypot(x, y), np.arctan2(y, x) + random.uniform(0, 2 * np.pi)
    shade = np.where(radius > 165, 25 * np.sin(60 * angle), 20 * np.cos(radius / 18))
    shade += 30 * np.exp(-(((x + 60) ** 2 + (y + 60) ** 2) / 60**2))
    colour = np.array([200, 60, 50], np.float32) + shade[..., None]
    colour[(radius < 70) & (np.cos(5 * angle) > 0.2)] = [240, 230, 220]
    inside = radius < 200
    around = 235 + 3 * clouds(random, 80)
    return Drawn(np.where(inside[..., None], colour + random.uniform(-6, 6), around[..., None]), inside)


def cloth(random: Random) -> Drawn:
    """Draw woven cloth, a little warped."""
    x, y = ((pixels + 2.5 * clouds(random, 80)) * np.pi / 8 + random.uniform(0, 2 * np.pi) for pixels in (X, Y))
    over = np.sin(x / 2) * np.sin(y / 2) > 0
    grey = np.where(over, 140 + 45 * np.cos(x), 120 + 45 * np.cos(y))
    grey += 6 * clouds(random, 5) + 5 * clouds(random, 120)
    return Drawn(grey[..., None] * np.array([0.95, 0.9, 0.8], np.float32), np.ones((EDGE, EDGE), bool))


def pill(random: Random) -> Drawn:
    """Draw a speckled pill."""
    x, y = (pixels - EDGE / 2 - random.normal(0, 10) for pixels in (X, Y))
    rim = (x / 190) ** 2 + (y / 105) ** 2
    colour = np.array([225, 220, 205], np.float32) - 40 * rim[..., None] ** 3
    colour[clouds(random, 4) > 2] = [190, 90, 80]
    colour[clouds(random, 7) > 2.2] = [120, 130, 170]
    colour[abs(x) < 4] *= 0.8
    around = 25 + 2 * clouds(random, 50)
    return Drawn(np.where((rim < 1)[..., None], colour + random.uniform(-5, 5), around[..., None]), rim < 1)


def spoiled(drawn: Drawn, random: Random) -> Defect:
    """Stain, crack or damage a product somewhere."""
    kind = str(random.choice(["stain", "crack", "damage"]))
    y, x = np.argwhere(drawn.inside)[random.integers(np.count_nonzero(drawn.inside))]
    if kind == "crack":
        line, angle, place = Image.new("1", (EDGE, EDGE)), random.uniform(0, 2 * np.pi), np.array([x, y], float)
        step, points = random.uniform(6, 16), [(float(x), float(y))]
        for turn in random.normal(0, 0.35, 8):
            angle += turn
            place += step * np.array([np.cos(angle), np.sin(angle)])
            points.append((float(place[0]), float(place[1])))
        ImageDraw.Draw(line).line(points, fill=1, width=3)
        mask = np.asarray(line) & drawn.inside
        shown = 0.5 * drawn.pixels + 20
    else:
        size = random.uniform(10, 25)
        mask = (np.hypot(X - x, Y - y) / size + 0.2 * clouds(random, size) < 0.8) & drawn.inside
        moved = np.roll(drawn.pixels, random.integers(40, 120, 2), (0, 1))
        shown = 0.55 * drawn.pixels + random.uniform(0, 60) if kind == "stain" else 0.8 * moved + 30
    return np.where(mask[..., None], shown, drawn.pixels), mask, kind


PRODUCTS: dict[str, tuple[Callable[[Random], Drawn], Callable[[Drawn, Random], Defect]]] = {
    "screw": (screw, spoiled_screw),
    "cap": (cap, spoiled),
    "cloth": (cloth, spoiled),
    "pill": (pill, spoiled),
}
"""How each product is drawn, and how it is spoiled."""


def photograph(pixels: np.ndarray, random: Random) -> Image.Image:
    """Return an image with a camera's noise and blur."""
    noisy = gaussian_filter(pixels + random.normal(0, 2.5, pixels.shape), (0.8, 0.8, 0))
    return Image.fromarray(np.rint(noisy.clip(0, 255)).astype(np.uint8))


def draw_normal(product: str, folder: Path, images: int, drawing: int) -> Path:
    """Draw so many normal images of a product to build a gallery from; return the folder. The same each time."""
    make, random = PRODUCTS[product][0], _random(product, 1 + drawing)
    folder.mkdir(parents=True)
    for number in range(images):
        photograph(make(random).pixels, random).save(folder / f"{number:03d}.png")
    return folder


def draw_tests(product: str, folder: Path) -> Path:
    """Draw the test images of a product, and the masks of defects; return the folder. The same each time."""
    make, spoil = PRODUCTS[product]
    random = _random(product, 0)
    for number in range(GOOD):
        _save(photograph(make(random).pixels, random), folder / "test" / "good" / f"{number:03d}.png")
    for number in range(DEFECTIVE):
        pixels, mask, kind = spoil(make(random), random)
        _save(photograph(pixels, random), folder / "test" / kind / f"{number:03d}.png")
        _save(Image.fromarray(mask), folder / "ground_truth" / kind / f"{number:03d}_mask.png")
    return folder


def _random(product: str, part: int) -> Random:
    return np.random.default_rng([list(PRODUCTS).index(product), part])


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
