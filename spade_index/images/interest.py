"""Regions of interest: the part of a picture that counts. What lies outside is neither scored nor matched.

A region is a mask in fractions of the picture's edges (upright: EXIF rotation applied), so it applies to pictures of
any size. It comes from a mask picture or polygons (see `region_files`), or from the gallery's own images (see
`method.foreground`).
"""

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import xxhash
from PIL import Image

from spade_index.exact import read_json

EDGE = 1024  # pixels of a stored region's longer edge, at most
POINTS = 8  # along each edge of a cell, at which the region is looked up; fewer where cells are many
MOST_POINTS = 2048  # along an edge of the grid
HALF = 0.5  # share of a cell that is inside, from which the cell counts
MOST_SOURCE = 2000  # characters


class Part(Protocol):
    """A part of a picture, such as `geometry.Geometry`."""

    @property
    def width(self) -> int:
        """Pixels of the picture."""

    @property
    def height(self) -> int:
        """Pixels of the picture."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the part, in the picture's pixels."""


class PackedRegion(NamedTuple):
    """A region in few bytes."""

    digest: str
    value: str  # JSON


@dataclass(frozen=True, eq=False)
class RegionOfInterest:
    """The part of every picture that counts."""

    mask: np.ndarray  # bool [H, W], True inside: the whole picture, whatever its size
    source: str  # where it comes from, in words

    @cached_property
    def digest(self) -> str:
        """The digest of the region, whatever its source."""
        height, width = self.mask.shape
        return xxhash.xxh3_128_hexdigest(f"{height}x{width}".encode() + np.packbits(self.mask).tobytes())

    @property
    def area(self) -> float:
        """The share of a picture that is inside."""
        return float(self.mask.mean())

    def cells(self, place: Part, size: Sequence[int], *, least_one: bool = False) -> np.ndarray:
        """Return which cells of a grid over a part of a picture are inside, by at least half: bool [H, W].

        Args:
            place: the part. What lies beyond the picture's edges is the picture, mirrored, as the backbone sees it.
            size: (H, W) of the grid.
            least_one: whether, if none is by half, those are taken of which most is inside, if any is.
        """
        left, top, right, bottom = place.box
        points = max(1, min(POINTS, MOST_POINTS // max(size)))
        rows = _places(top / place.height, bottom / place.height, size[0] * points, self.mask.shape[0])
        columns = _places(left / place.width, right / place.width, size[1] * points, self.mask.shape[1])
        looked_up = self.mask[rows[:, None], columns].reshape(size[0], points, size[1], points)
        shares = looked_up.mean((1, 3))
        most = float(shares.max())
        inside: np.ndarray = shares >= (most if least_one and 0 < most < HALF else HALF)
        return inside

    @cached_property
    def packed(self) -> "PackedRegion":
        """This region as a catalog keeps it."""
        return PackedRegion(self.digest, self.to_json())

    def described(self) -> dict[str, object]:
        """Describe this region in values that JSON knows."""
        return {"source": self.source, "area": self.area, "digest": self.digest}

    def picture(self) -> Image.Image:
        """Return the region as a picture, white inside and black outside."""
        return Image.fromarray(self.mask.astype(np.uint8) * 255)

    def to_json(self) -> str:
        """Return this region as one line of JSON."""
        height, width = self.mask.shape
        bits = base64.b64encode(zlib.compress(np.packbits(self.mask).tobytes(), 9)).decode()
        return json.dumps({"width": width, "height": height, "bits": bits, "source": self.source})

    @classmethod
    def from_json(cls, text: str) -> "RegionOfInterest":
        """Return the region that `to_json` wrote. Raises ValueError for anything else."""
        try:
            value = read_json(text)
            width, height, source = value["width"], value["height"], value["source"]
            if not all(type(edge) is int and 1 <= edge <= EDGE for edge in (width, height)):
                raise ValueError("unexpected size")
            if type(source) is not str or len(source) > MOST_SOURCE or not source.isprintable():
                raise ValueError("unexpected source")
            count = (width * height + 7) // 8
            inflate = zlib.decompressobj()
            packed = inflate.decompress(base64.b64decode(value["bits"], validate=True), count + 1)
        except (KeyError, RecursionError, TypeError, ValueError, zlib.error) as error:
            raise ValueError(f"not a region of interest: {error}") from error
        if len(packed) != count:
            raise ValueError("not a region of interest: it has another size than it states")
        bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=width * height)
        mask = bits.reshape(height, width).astype(bool)
        if not mask.any():
            raise ValueError("not a region of interest: nothing is inside")
        return cls(mask, source)


def region_of(mask: np.ndarray, source: str) -> RegionOfInterest:
    """Return the region of a mask bool [H, W] of any size; a pixel of a smaller one is inside where half of it is."""
    height, width = mask.shape
    if (longest := max(mask.shape)) > EDGE:
        size = max(1, round(width * EDGE / longest)), max(1, round(height * EDGE / longest))
        grey = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
        mask = np.asarray(grey) >= 128
    return RegionOfInterest(mask, source)


def _places(low: float, high: float, count: int, pixels: int) -> np.ndarray:
    """Return the pixels of an axis at `count` points from `low` to `high` (fractions of it), int64 [count]."""
    places = low + (np.arange(count) + 0.5) / count * (high - low)
    mirrored = 1 - abs(1 - places % 2)
    return np.minimum((mirrored * pixels).astype(np.int64), pixels - 1)
