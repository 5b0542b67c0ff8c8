"""Synthetic defects: changes pasted into normal images, with masks of where they are.

They need no labels, and they rank ways of comparing as real defects do: see `tuning`. Small and faint ones are meant to
be hard, for large ones are found by every way.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

VISIBLE = 8.0  # grey levels, of 255: the least mean change within the mask
COVERED = 0.3  # opacity above which a pixel belongs to the mask
ATTEMPTS = 20  # draws until a defect is visible
ATTEMPTS_INSIDE = 100  # likewise, within a part of the image
WITHIN = 0.5  # share of a defect that must lie in that part


@dataclass(frozen=True)
class Pasted:
    """An image with a synthetic defect."""

    pixels: np.ndarray  # uint8 [H, W, 3]
    mask: np.ndarray  # bool [H, W], True on the defect
    kind: str  # a name in KINDS


@dataclass(frozen=True)
class _Canvas:
    """The image to change, and another one to take parts from; float32 [H, W, 3], values 0..255."""

    image: np.ndarray
    other: np.ndarray
    random: np.random.Generator
    inside: np.ndarray | None = None  # bool [H, W], where defects lie; None: anywhere
    scale: float = 1.0  # of all lengths

    @property
    def edge(self) -> float:
        """The length of which sizes are shares, in pixels: the shorter edge; of a small object, twice its root area."""
        whole = min(self.image.shape[:2])
        if self.inside is not None:
            whole = min(whole, round(2 * np.count_nonzero(self.inside) ** 0.5))
        return whole * self.scale

    def along(self, place: tuple[float, float], angle: float) -> tuple[np.ndarray, np.ndarray]:
        """Return each pixel's coordinates [H, W] along a direction and across it, from a place (x, y)."""
        height, width = self.image.shape[:2]
        y, x = np.mgrid[:height, :width].astype(np.float32)
        x, y = x - place[0], y - place[1]
        return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)

    def place(self) -> tuple[float, float]:
        """Draw a place (x, y): in the part where defects lie, or not close to the border."""
        if self.inside is not None:
            y, x = np.unravel_index(self.random.choice(np.flatnonzero(self.inside)), self.inside.shape)
            return float(x), float(y)
        height, width = self.image.shape[:2]
        return float(self.random.uniform(0.1, 0.9) * width), float(self.random.uniform(0.1, 0.9) * height)

    def length(self, least: float, most: float) -> float:
        """Draw a length between two shares of the shorter edge, in pixels, at least 1.5."""
        return max(1.5, float(self.random.uniform(least, most)) * self.edge)

    def bar(self, length: float, width: float) -> np.ndarray:
        """Return the opacity [H, W] of a turned rectangle at a drawn place; its edges are one pixel soft."""
        along, across = self.along(self.place(), float(self.random.uniform(0, np.pi)))
        inside = np.minimum(length / 2 - abs(along), width / 2 - abs(across))
        return np.clip(inside + 0.5, 0, 1)

    def moved(self, image: np.ndarray, least: float = 0.1) -> np.ndarray:
        """Return an image moved by at least this share of its edges, so that other parts of it lie here."""
        shifts = [int(n * self.random.uniform(least, 1 - least)) for n in image.shape[:2]]
        return np.roll(image, shifts, (0, 1))

    def tint(self) -> float:
        """Draw a change of brightness, darker or brighter by 38 to 128 grey levels."""
        return float(self.random.choice([-1, 1]) * self.random.uniform(38, 128))

    def parts(self) -> np.ndarray:
        """Return other parts of this image or of the other one, mirrored, darker or brighter."""
        source = self.image if self.random.random() < 0.5 else self.other
        flipped = source[:: self.random.choice([-1, 1]), :: self.random.choice([-1, 1])]
        return self.moved(flipped) * np.float32(self.random.uniform(0.6, 1.4))


def _scar(canvas: _Canvas) -> tuple[np.ndarray, np.ndarray]:
    return canvas.bar(canvas.length(0.08, 0.25), canvas.length(0.01, 0.03)), canvas.parts()


def _patch(canvas: _Canvas) -> tuple[np.ndarray, np.ndarray]:
    return canvas.bar(canvas.length(0.04, 0.12), canvas.length(0.04, 0.12)), canvas.parts()


def _stain(canvas: _Canvas) -> tuple[np.ndarray, np.ndarray]:
    x, y = canvas.along(canvas.place(), 0.0)
    radius = canvas.length(0.02, 0.06)
    return np.exp(-(((x * x + y * y) / (2 * radius * radius)) ** 2)), canvas.image + canvas.tint()


def _shade(canvas: _Canvas) -> tuple[np.ndarray, np.ndarray]:
    """Darken or brighten a large part faintly, without an edge."""
    x, y = canvas.along(canvas.place(), float(canvas.random.uniform(0, np.pi)))
    length, width = canvas.length(0.1, 0.3), canvas.length(0.05, 0.15)
    change = float(canvas.random.choice([-1, 1]) * canvas.random.uniform(20, 60))
    return np.exp(-((x / length) ** 2 + (y / width) ** 2) / 2), canvas.image + change


def _line(canvas: _Canvas) -> tuple[np.ndarray, np.ndarray]:
    along, across = canvas.along(canvas.place(), float(canvas.random.uniform(0, np.pi)))
    wobble = gaussian_filter(canvas.random.normal(size=along.shape), canvas.edge / 20) * canvas.edge / 4
    half = canvas.length(0.003, 0.01)
    inside = np.clip(half - abs(across + wobble) + 0.5, 0, 1)
    return inside * (abs(along) < canvas.length(0.1, 0.3)), canvas.image + canvas.tint()


def _noise(canvas: _Canvas) -> tuple[np.ndarray, np.ndarray]:
    x, y = canvas.along(canvas.place(), 0.0)
    radius = canvas.length(0.02, 0.05)
    inside = x * x + y * y < radius * radius
    speckled = canvas.image + canvas.tint() * 2 * canvas.random.random((*x.shape, 1), dtype=np.float32)
    return inside.astype(np.float32), speckled


def _missing(canvas: _Canvas) -> tuple[np.ndarray, np.ndarray]:
    """Cover a part with the mean of what surrounds it."""
    length, width = canvas.length(0.04, 0.12), canvas.length(0.03, 0.06)
    sigma = max(length, width) / 2
    return canvas.bar(length, width), gaussian_filter(canvas.image, (sigma, sigma, 0))


def _doubled(canvas: _Canvas) -> tuple[np.ndarray, np.ndarray]:
    """Repeat a part of the image close to where it is."""
    length, width = canvas.length(0.05, 0.15), canvas.length(0.04, 0.1)
    shifts = [int(canvas.random.choice([-1, 1]) * canvas.random.uniform(0.5, 1.5) * length) for _ in range(2)]
    return canvas.bar(length, width), np.roll(canvas.image, shifts, (0, 1))


KINDS: dict[str, Callable[[_Canvas], tuple[np.ndarray, np.ndarray]]] = {
    "scar": _scar,
    "patch": _patch,
    "stain": _stain,
    "shade": _shade,
    "line": _line,
    "noise": _noise,
    "missing": _missing,
    "doubled": _doubled,
}
"""How each kind draws a defect: its opacity [H, W], 0..1, and what shows there, [H, W, 3]."""


def paste(
    image: np.ndarray,
    other: np.ndarray,
    seed: tuple[int, ...],
    inside: np.ndarray | None = None,
    scale: float = 1.0,
) -> Pasted | None:
    """Paste a defect of a drawn kind at a drawn place.

    Args:
        image: uint8 [H, W, 3].
        other: another image, uint8 [H, W, 3], of the same size; parts may come from it.
        seed: the same seed gives the same defect.
        inside: bool [H, W], where a defect may be; what reaches out of it is cut off. None: everywhere.
        scale: of the defect's lengths: 0.5 for one of half the usual size.

    Returns:
        The changed image, or None if no visible defect could be drawn (the images are of one colour).
    """
    random = np.random.default_rng(seed)
    if inside is not None and not inside.any():
        return None
    canvas = _Canvas(image.astype(np.float32), other.astype(np.float32), random, inside, scale)
    for _ in range(ATTEMPTS if inside is None else ATTEMPTS_INSIDE):
        kind = str(random.choice(list(KINDS)))
        opacity, shown = KINDS[kind](canvas)
        if inside is not None:
            whole = np.count_nonzero(opacity > COVERED)
            opacity = opacity * inside
            if np.count_nonzero(opacity > COVERED) < WITHIN * whole:
                continue
        mixed = canvas.image + opacity[..., None].astype(np.float32) * (shown - canvas.image)
        pixels = np.rint(mixed.clip(0, 255)).astype(np.uint8)
        mask = opacity > COVERED
        if mask.any() and float(abs(pixels[mask].astype(np.float32) - canvas.image[mask]).mean()) >= VISIBLE:
            return Pasted(pixels, mask, kind)
    return None
