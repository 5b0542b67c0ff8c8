"""The record of a verdict, as `query --json` and `watch` write it."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spade_index.images.files import as_text
from spade_index.method.detection import Detection
from spade_index.method.detector import Detector
from spade_index.method.evidence import worst_evidence
from spade_index.method.pictures import Picture
from spade_index.method.regions import Region

from .drawing import Drawing


def answer_of(
    detector: Detector,
    image: Picture,
    detection: Detection,
    regions: Sequence[Region] | None,
    drawing: Drawing | None,
) -> dict[str, Any]:
    """Return the answer of `query --json` for an image; its score map is saved by `drawing`."""
    evidence = worst_evidence(detector.gallery, detection, image.geometry)
    saved = drawing.save(image.file, detection, regions) if drawing is not None else None
    score_map, heatmap = saved if saved is not None else (None, None)
    mask = drawing.mask_path(image.file) if drawing is not None else None
    return {
        "image": image.file.id,
        "path": image.file.path,
        "score": detection.score,
        "scores": detection.scores,
        "threshold": detection.threshold,
        "p_value": detection.p_value,
        "anomalous": detection.anomalous,
        "snapshot": detection.snapshot,
        "neighbours": [{"id": n.id, "distance": n.distance} for n in detection.neighbours],
        "score_map": _text(score_map),
        "heatmap": _text(heatmap),
        "mask": _text(mask),
        "evidence": None if evidence is None else asdict(evidence),
        "regions": None if regions is None else [_region(region) for region in regions],
    }


def _text(path: Path | None) -> str | None:
    return None if path is None else as_text(os.fspath(path))


def _region(region: Region) -> dict[str, Any]:
    known = None if region.known is None else asdict(region.known)
    values = {"polygon": region.polygon, "box": region.box, "area": region.area, "score": region.score}
    return {**values, "known_defect": known}
