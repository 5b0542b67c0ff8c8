"""Read regions of interest: from mask pictures, or from polygons in JSON."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from spade_index.errors import ImageError, InputError
from spade_index.exact import read_json
from spade_index.paths import path_of

from .files import ImageFile, MaskFile
from .geometry import Geometry
from .interest import EDGE, RegionOfInterest, region_of
from .mask_pixels import orientation_of, read_fitting_mask, read_whole_mask, unreadable
from .polygons import FRACTIONS, Polygons, polygons_of
from .shapes import Size, require_shape
from .workers import Call, DecoderPool, NoDecoder, Plain, answer_or_refuse
from .workers.calls import WRONG

MOST_POLYGON_BYTES = 16 << 20  # of a JSON file


def read_region(path: Path) -> RegionOfInterest:
    """Read a region of interest from a mask picture (what is not zero is inside) or from polygons in JSON.

    Polygons are {"polygons": [[[x, y], ...], ...]} in fractions of the edges, or in pixels where
    "size": [width, height] is stated, too. Annotations of LabelMe and COCO of one image are read as well. What any
    polygon holds is inside.

    Raises InputError naming the file.
    """
    mask = MaskFile.at(path_of(path, "the region"))
    return _region_in(mask, _polygons(mask)[0] if mask.polygons else read_whole_mask(mask))


def read_own_region(
    mask: MaskFile, shown: Geometry, orientation: Callable[[], int], decoders: DecoderPool | None = None
) -> RegionOfInterest:
    """Read the region of interest of one image, which must have its size or shape; else as `read_region` does.

    Args:
        mask: a picture, or polygons.
        shown: of the image.
        orientation: returns EXIF's orientation of the image: a mask without one that has the size of the image's
            stored pixels is turned as the image is.
        decoders: processes that read it, by default the program's own.
    """
    if not mask.polygons:
        return _region_in(mask, read_fitting_mask(mask, (shown.width, shown.height), orientation, decoders))
    drawn, size = _polygons(mask, decoders)
    if size != FRACTIONS:
        require_shape(mask.path, size, (shown.width, shown.height))
    return _region_in(mask, drawn)


def own_region(
    file: ImageFile,
    shown: Geometry,
    decoders: DecoderPool | None = None,
    orientation: Callable[[], int] | None = None,
) -> RegionOfInterest | None:
    """Return the region of interest that is an image's own; None if it has none. Raises ImageError, NoDecoder.

    `orientation` returns EXIF's orientation of the image, by default as its file says.
    """
    if file.region is None:
        return None
    try:
        turned = orientation or (lambda: orientation_of(file.read(), decoders))
        return read_own_region(file.region, shown, turned, decoders)
    except NoDecoder:
        raise
    except (InputError, OSError) as error:
        raise ImageError(f"{file.path}: its region of interest cannot be used: {error}") from error


def _region_in(mask: MaskFile, marked: np.ndarray) -> RegionOfInterest:
    """Return the region of a file, which marks bool [H, W]. Raises InputError if nothing is inside."""
    name = os.path.basename(mask.path)
    source = f"{'polygons of' if mask.polygons else 'mask'} {name if name.isprintable() else ascii(name)}"
    if not marked.any():
        raise InputError(f"{mask.path}: nothing of the picture is inside of this region of interest")
    region = region_of(marked, source)
    if not region.mask.any():
        raise InputError(f"{mask.path}: this region of interest is too small")
    return region


def _polygons(mask: MaskFile, decoders: DecoderPool | None = None) -> tuple[np.ndarray, Size]:
    """Return what the polygons of a file hold, bool [H, W], and the size of their picture. Raises InputError."""
    answer = answer_or_refuse(Call(_read_polygons, mask.path, mask.read, (mask.path,)), decoders)
    try:
        width, height = map(float, answer.facts["picture"])
        return np.frombuffer(answer.parts[0], bool).reshape(answer.facts["size"]), (width, height)
    except WRONG as error:
        raise InputError(f"{mask.path}: cannot be read (its decoder answered {error!r})") from error


def _read_polygons(read: Callable[[], bytes], name: str) -> Plain:
    try:
        data = read()
        if len(data) > MOST_POLYGON_BYTES:
            raise InputError(f"{name}: is over the limit of {MOST_POLYGON_BYTES >> 20} MiB for polygons")
        value: Any = read_json(data.decode("utf-8-sig"))
    except OSError as error:
        raise unreadable(name, error) from error
    except ValueError as error:
        raise InputError(f"{name}: is not JSON ({' '.join(str(error).split())})") from error
    try:
        polygons = polygons_of(value)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error
    drawn = _drawn(polygons)
    return {"size": drawn.shape, "picture": polygons.size}, [drawn.tobytes()]


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
