"""Predictions as Label Studio stores them: a choice, brush masks and polygons, for the tags of a labeling config."""

import secrets
from collections.abc import Iterator
from typing import Any

from spade_index.images.geometry import Geometry
from spade_index.method.detection import Detection
from spade_index.method.regions import Region, regions_of
from spade_index.views.brush import brush

from .config import Controls

PLACES = 4  # of percent that are kept


def prediction(detection: Detection, geometry: Geometry, controls: Controls, version: str) -> dict[str, Any]:
    """Return the prediction for one image. Regions are those of an image that is called anomalous.

    `score` is 1 - `p_value`: None without a calibration, and then there is no result either.
    """
    found: list[dict[str, Any]] = []
    if detection.anomalous is not None and controls.choice is not None:
        stated = controls.choice.anomalous if detection.anomalous else controls.choice.normal
        found.append(_item("choices", controls.choice.name, {"choices": [stated]}))
    regions = (regions_of(detection, geometry) or []) if detection.anomalous else []
    for region in regions:
        found += _drawn(region, geometry, controls)
    size = {"original_width": geometry.width, "original_height": geometry.height, "image_rotation": 0}
    return {
        "result": [{**item, "to_name": controls.image, **size} for item in found],
        "score": None if detection.p_value is None else 1 - detection.p_value,
        "model_version": version,
    }


def _drawn(region: Region, geometry: Geometry, controls: Controls) -> Iterator[dict[str, Any]]:
    """Yield a region as each tag has it. Polygons have no holes; brush masks do."""
    if (tag := controls.brush) is not None:
        value = {"format": "rle", "rle": brush(region, geometry), "brushlabels": [tag.label]}
        yield _item("brushlabels", tag.name, value)
    if (tag := controls.polygon) is not None:
        percent = 100 / geometry.width, 100 / geometry.height
        points = [[round(x * percent[0], PLACES), round(y * percent[1], PLACES)] for x, y in region.polygon]
        yield _item("polygonlabels", tag.name, {"points": points, "closed": True, "polygonlabels": [tag.label]})


def _item(kind: str, name: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"id": secrets.token_urlsafe(8), "type": kind, "from_name": name, "value": value}
