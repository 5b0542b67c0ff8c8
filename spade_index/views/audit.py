"""The page of an audit: each odd image of a gallery with its map and evidence, searched for without itself."""

import io
from dataclasses import replace
from pathlib import Path

import torch
import xxhash
from PIL import Image

from spade_index.errors import ImageError
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.reader import Gallery
from spade_index.images.decode import covered, decode
from spade_index.method.audit import Audit, OddImage
from spade_index.method.calibration import near_distance
from spade_index.method.detection import Detection, Question
from spade_index.method.detector import Detector

from .example import Example, example_of
from .heatmap import score_limits
from .report import Table, write_report


def write_audit(path: Path, gallery: Gallery, found: Audit) -> None:
    """Write one HTML page about an audit of a gallery. Raises OSError."""
    detector = Detector(gallery)  # searches as the gallery was tuned
    tuned = gallery.catalog.tuned() or {}
    near = near_distance(gallery)
    rows = [gallery.image(odd.id) for odd in found.odd]
    detections = [_without_itself(detector, row, near) for row in rows]
    peaks = [detection.pixels.peak for detection in detections if detection.pixels is not None]
    doubled = [[", ".join(group)] for group in found.doubled]
    limits = score_limits(peaks, detector.pixel_threshold)
    write_report(
        path,
        title=f"Audit of {gallery.path.resolve().name}",
        summary=[
            ("Gallery", f"{len(gallery):,} images"),
            ("Snapshot", found.snapshot),
            ("Scored without themselves", found.scored),
            ("Image score", found.kind),
            ("Compared by", tuned.get("why", "defaults")),
        ],
        tables=[Table("Near-duplicates", ["Images"], doubled)] if doubled else [],
        examples=[
            _example(gallery, odd, row, detection, limits)
            for odd, row, detection in zip(found.odd, rows, detections, strict=True)
        ],
        limits=limits,
    )


def _without_itself(detector: Detector, row: ImageRow, near: float) -> Detection:
    """Search for an image as `calibrate` does: without itself and its near-duplicates."""
    gallery = detector.gallery
    pyramid = [torch.from_numpy(level).float() for level in gallery.maps([row.key])]
    nearest = detector.nearest_images(gallery.pooled([row]), row.key, near)
    ((_, detection),) = detector.judge(nearest, pyramid, [Question(maps="always")])
    return detection


def _example(
    gallery: Gallery, odd: OddImage, row: ImageRow, detection: Detection, limits: tuple[float, float]
) -> Example:
    geometry = covered(row.width, row.height, gallery.settings.preprocessing)
    judged = replace(detection, p_value=odd.p_value)
    shown = example_of(gallery, judged, _original(gallery, row), odd.id, geometry, limits, kind="odd")
    return replace(shown, score=odd.score, threshold=None, verdict=None)  # it is ranked, not judged


def _original(gallery: Gallery, row: ImageRow) -> Image.Image:
    """Return the image that was added, or its thumbnail in the same size where that has gone or changed."""
    try:
        data = Path(row.path).read_bytes()
        if xxhash.xxh3_128_digest(data) == row.digest:
            return decode(data, row.path)
    except (ImageError, OSError):
        pass
    return Image.open(io.BytesIO(gallery.thumbnail(row))).convert("RGB").resize((row.width, row.height))
