"""Read regions of interest: from mask pictures, or from polygons in JSON."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from spade_index.errors import ImageError, InputError
from spade_index.exact import read_json

from .files import ImageFile, as_text, opened
from .geometry import Geometry
from .interest import EDGE, RegionOfInterest, region_of
from .masks import orientation_of, read_fitting_mask, read_whole_mask
from .polygons import FRACTIONS, Polygons, polygons_of
from .shapes import require_shape

MOST_POLYGON_BYTES = 16 << 20  # of a JSON file


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


def _polygons_in(path: Path) -> Polygons:
    try:
        with opened(path) as file:
            data = file.read(MOST_POLYGON_BYTES + 1)
        if len(data) > MOST_POLYGON_BYTES:
            raise InputError(f"{path}: is over the limit of {MOST_POLYGON_BYTES >> 20} MiB for polygons")
        value: Any = read_json(data.decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
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
