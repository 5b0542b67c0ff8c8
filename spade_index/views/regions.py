"""Show regions: as outlines on a picture, as a mask, and as COCO's JSON."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from spade_index.images.geometry import Geometry
from spade_index.method.outline import fill
from spade_index.method.regions import Region

CATEGORY = {"id": 1, "name": "defect", "supercategory": ""}
INFO = {"description": "Regions whose scores are above the threshold of a gallery, found by spade_index"}


def outline(picture: Image.Image, regions: Iterable[Region], geometry: Geometry) -> Image.Image:
    """Return a copy of a picture with thin lines around regions: white with a dark edge, visible on any image.

    Args:
        picture: the original, RGB, or a smaller or larger copy of it.
        regions: in pixels of the original.
        geometry: of the original.
    """
    drawn = picture.convert("RGB")
    draw = ImageDraw.Draw(drawn)
    scale = np.array(picture.size) / (geometry.width, geometry.height)
    thin = max(1, round(max(picture.size) / 500))
    lines = [np.array(line) * scale - 0.5 for region in regions for line in (region.polygon, *region.holes)]
    for colour, width in (("black", thin + 2), ("white", thin)):
        for line in lines:
            closed = [*line, line[0]]
            draw.line([(float(x), float(y)) for x, y in closed], fill=colour, width=width, joint="curve")
    return drawn


def mask(regions: Iterable[Region], geometry: Geometry) -> Image.Image:
    """Return the pixels of the original that lie in regions: 8-bit grey, 255 inside and 0 outside."""
    found: NDArray[np.bool_] = np.zeros((geometry.height, geometry.width), bool)
    for region in regions:
        (left, top), part = inside(region, geometry)
        found[top : top + part.shape[0], left : left + part.shape[1]] |= part
    return Image.fromarray(found.astype(np.uint8) * 255)


def inside(region: Region, geometry: Geometry) -> tuple[tuple[int, int], NDArray[np.bool_]]:
    """Return the corner (x, y) of a part of the original, and its pixels that lie in a region: bool [h, w]."""
    x, y, width, height = region.box
    left, top = int(x), int(y)
    size = min(int(y + height) + 1, geometry.height) - top, min(int(x + width) + 1, geometry.width) - left
    return (left, top), fill([np.array(line) - (left, top) for line in (region.polygon, *region.holes)], size)


def coco(images: Iterable[tuple[str, Geometry, Sequence[Region]]]) -> dict[str, Any]:
    """Return the regions of images in COCO's format; ids count from 1.

    COCO's polygons have no holes: `area` leaves them out, `segmentation` does not.

    Args:
        images: file name, geometry and regions of each.
    """
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for file_name, geometry, regions in images:
        entry = {"id": len(entries) + 1, "file_name": file_name, "width": geometry.width, "height": geometry.height}
        entries.append(entry)
        annotations += [
            {
                "id": number,
                "image_id": entry["id"],
                "category_id": CATEGORY["id"],
                "segmentation": [[edge for point in region.polygon for edge in point]],
                "bbox": list(region.box),
                "area": region.area,
                "score": region.score,
                "iscrowd": 0,
            }
            for number, region in enumerate(regions, len(annotations) + 1)
        ]
    # Some readers fail without `info` and `licenses`.
    parts = {"images": entries, "annotations": annotations, "categories": [CATEGORY]}
    return {"info": INFO, "licenses": [], **parts}
