"""Regions of interest: the part of a picture that counts. What lies outside is neither scored nor matched.

A region is a mask in fractions of the picture's edges (upright: EXIF rotation applied), so it applies to pictures of
any size. It comes from a mask picture, from polygons, or from the gallery's own images (see `method.foreground`).
"""

import base64
import json
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
from PIL import Image, ImageDraw

from spade_index.errors import ImageError, InputError

from .files import ImageFile, as_text
from .geometry import Geometry
from .masks import orientation_of, read_fitting_mask, read_whole_mask
from .polygons import FRACTIONS, Polygons, polygons_of
from .shapes import require_shape

EDGE = 1024  # pixels of a stored region's longer edge, at most
POINTS = 8  # along each edge of a cell, at which the region is looked up; fewer where cells are many
MOST_POINTS = 2048  # along an edge of the grid
HALF = 0.5  # share of a cell that is inside, from which the cell counts
MOST_SOURCE = 2000  # characters
MOST_POLYGON_BYTES = 16 << 20  # of a JSON file


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

    def cells(self, place: Geometry, size: Sequence[int], *, least_one: bool = False) -> np.ndarray:
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
            value = json.loads(text)
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


def read_region(path: Path) -> RegionOfInterest:
    """Read a region of interest from a mask picture (what is not zero is inside) or from polygons in JSON.

    Polygons are {"polygons": [[[x, y], ...], ...]} in fractions of the edges, or in pixels where
    "size": [width, height] is stated, too. Annotations of LabelMe and COCO of one image are read as well. What any
    polygon holds is inside.

    Raises InputError naming the file.
    """
    if path.suffix.lower() == ".json":
        return _region_in(path, _drawn(_polygons_in(path)))
    return _region_in(path, read_whole_mask(path))


def read_own_region(path: Path, shown: Geometry, orientation: Callable[[], int]) -> RegionOfInterest:
    """Read the region of interest of one image, which must have its size or shape; else as `read_region` does.

    Args:
        path: of the mask, or polygons.
        shown: of the image.
        orientation: returns EXIF's orientation of the image: a mask without one that has the size of the image's
            stored pixels is turned as the image is.
    """
    if path.suffix.lower() != ".json":
        return _region_in(path, read_fitting_mask(path, (shown.width, shown.height), orientation))
    polygons = _polygons_in(path)
    if polygons.size != FRACTIONS:
        require_shape(path, polygons.size, (shown.width, shown.height))
    return _region_in(path, _drawn(polygons))


def own_region(file: ImageFile, shown: Geometry) -> RegionOfInterest | None:
    """Return the region of interest that a rule names for an image; None without a rule. Raises ImageError."""
    if file.region is None:
        return None
    if not os.path.exists(file.region):
        raise ImageError(f"{file.path}: has no region of interest: {as_text(file.region)} is not there")
    try:
        return read_own_region(Path(file.region), shown, lambda: orientation_of(file.read()))
    except (InputError, OSError) as error:
        raise ImageError(f"{file.path}: its region of interest cannot be used: {error}") from error


def _region_in(path: Path, mask: np.ndarray) -> RegionOfInterest:
    """Return the region of a file, of a mask bool [H, W]. Raises InputError if nothing is inside."""
    name = path.name if path.name.isprintable() else ascii(path.name)
    source = f"{'polygons of' if path.suffix.lower() == '.json' else 'mask'} {name}"
    if not mask.any():
        raise InputError(f"{path}: nothing of the picture is inside of this region of interest")
    region = region_of(mask, source)
    if not region.mask.any():
        raise InputError(f"{path}: this region of interest is too small")
    return region


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


def _polygons_in(path: Path) -> Polygons:
    try:
        if path.stat().st_size > MOST_POLYGON_BYTES:
            raise InputError(f"{path}: is over the limit of {MOST_POLYGON_BYTES >> 20} MiB for polygons")
        value: Any = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (RecursionError, ValueError) as error:
        raise InputError(f"{path}: is not JSON ({' '.join(str(error).split())})") from error
    try:
        return polygons_of(value)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _drawn(polygons: Polygons) -> np.ndarray:
    """Return what polygons hold, bool [H, W]."""
    width, height = polygons.size
    scale = EDGE / max(width, height)
    canvas = Image.new("L", (max(1, round(width * scale)), max(1, round(height * scale))))
    draw = ImageDraw.Draw(canvas)
    for points in polygons.points:
        # A pixel is drawn where its centre is inside; Pillow takes coordinates of pixels' centres.
        placed = points / (width, height) * canvas.size - 0.5
        draw.polygon([(float(x), float(y)) for x, y in placed], fill=255)
    return np.asarray(canvas) > 0
