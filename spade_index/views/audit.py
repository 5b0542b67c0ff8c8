"""The page of an audit: each odd image of a gallery with its map and evidence, searched for without itself."""

import io
from dataclasses import replace
from pathlib import Path

from PIL import Image

from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.reader import Gallery
from spade_index.images.geometry import covered
from spade_index.images.tiles import box_of
from spade_index.method.audit import Audit, OddImage, without_themselves
from spade_index.method.detection import Detection
from spade_index.method.detector import Detector
from spade_index.method.originals import originals
from spade_index.method.pixel_search import Elsewhere
from spade_index.method.tuned import why_searched
from spade_index.wording import number_of

from .example import Example, example_of
from .heatmap import score_limits
from .report import Table, write_report
from .text import size_of


def write_audit(path: Path, gallery: Gallery, found: Audit, elsewhere: Elsewhere | None = None) -> None:
    """Write one HTML page about an audit of a gallery. Maps are searched `elsewhere`, or here. Raises OSError."""
    detector = Detector(gallery, elsewhere=elsewhere)  # searches as the gallery was tuned
    rows = [gallery.image(odd.id) for odd in found.odd]
    files = {row.key: image for row, image in originals(rows, gallery.settings.preprocessing)}
    detections = [detection for _, detection in without_themselves(detector, rows)]
    peaks = [detection.pixels.peak for detection in detections if detection.pixels is not None]
    doubled = [[", ".join(group)] for group in found.doubled]
    limits = score_limits(peaks, detector.pixel_threshold)
    write_report(
        path,
        title=f"Audit of {gallery.name}",
        summary=[
            ("Gallery", size_of(gallery)),
            ("Snapshot", found.snapshot),
            ("Ranked", ranked(found)),
            ("Image score", found.kind),
            ("Compared by", why_searched(gallery, detector.search)),
        ],
        tables=[Table("Near-duplicates", ["Images"], doubled)] if doubled else [],
        examples=[
            _example(gallery, odd, row, files.get(row.key) or _thumbnail(gallery, row), detection, limits)
            for odd, row, detection in zip(found.odd, rows, detections, strict=True)
        ],
        limits=limits,
        truth=False,
    )


def ranked(found: Audit) -> str:
    """Say how many images were ranked: all, or a sample."""
    return f"{found.scored:,} of {number_of(found.images, 'image')}, each scored without itself"


def _example(
    gallery: Gallery,
    odd: OddImage,
    row: ImageRow,
    image: Image.Image,
    detection: Detection,
    limits: tuple[float, float],
) -> Example:
    geometry = covered(image.width, image.height, gallery.settings.preprocessing)  # of a tile, in its own pixels
    judged = replace(detection, p_value=odd.p_value)
    shown = example_of(gallery, judged, image, odd.id, geometry, limits, kind="odd")
    return replace(shown, score=odd.score, threshold=None, verdict=None)  # it is ranked, not judged


def _thumbnail(gallery: Gallery, row: ImageRow) -> Image.Image:
    """Return an image's thumbnail in the size of the image, to show where its file has gone or changed."""
    thumbnail = Image.open(io.BytesIO(gallery.thumbnail(row)), formats=["JPEG"]).convert("RGB")
    left, top, right, bottom = box_of(row.id, row.width, row.height, gallery.settings.preprocessing)
    return thumbnail.resize((round(right - left), round(bottom - top)))
