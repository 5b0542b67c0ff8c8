"""Is what an ingest wrote right? No rate is quoted of one that is not."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from spade_index.errors import GalleryError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.write.admission import AddReport
from spade_index.images import ImageFile, load

SAMPLE = 20  # images whose features are computed again
TOLERANCE = 1e-4  # relative, of descriptors: a batch of another size is rounded otherwise
MAP_TOLERANCE = 1e-3  # relative, of feature maps: stored as float16


def check_gallery(
    path: Path, backbone: Backbone, files: Callable[[], Iterator[ImageFile]], report: AddReport
) -> dict[str, Any]:
    """Count images, verify every file, and compute the features of some again; raises GalleryError if any is wrong."""
    with Gallery(path) as gallery:
        rows = {row.id: row for row in gallery.images()}
        found = sum(1 for _ in files())
        known = len(rows) + report.copies + report.failed + report.unchanged + report.changed
        require(len(rows) == len(gallery) == report.added, f"{len(rows):,} images in the gallery: {report}")
        require(known == found, f"{found:,} images were given: {report}")
        problems = list(gallery.verify())
        require(not problems, "; ".join(problems))
        sample = set(random.Random(0).sample(sorted(rows), min(SAMPLE, len(rows))))
        errors = [_compare(gallery, backbone, file) for file in files() if file.id in sample]
    return {
        "images": len(rows),
        "images_compared": len(errors),
        "descriptor_error": max(descriptor for descriptor, _ in errors),
        "map_error": max(maps for _, maps in errors),
    }


def require(right: bool, what: str) -> None:
    """Raise GalleryError if an ingest did not do what it should have."""
    if not right:
        raise GalleryError(f"the ingest was wrong, so nothing is quoted of it: {what}")


def _compare(gallery: Gallery, backbone: Backbone, file: ImageFile) -> tuple[float, float]:
    """Relative errors of the stored descriptor and of the worst level of the stored maps."""
    row, image = gallery.image(file.id), load(file, backbone.settings.preprocessing)
    features = backbone(image.pixels[None])
    descriptor = _error(gallery.pooled([row])[0], features.pooled[0].cpu().numpy())
    levels = zip(gallery.maps([row.key]), features.pyramid, strict=True)
    maps = max(_error(stored[0], level[0].cpu().numpy()) for stored, level in levels)
    require(row.digest == image.digest, f"{file.id} is stored with another digest than its file's")
    require(descriptor <= TOLERANCE, f"{file.id}: its descriptor is off by {descriptor:.1e}")
    require(maps <= MAP_TOLERANCE, f"{file.id}: its feature maps are off by {maps:.1e}")
    return descriptor, maps


def _error(stored: np.ndarray, computed: np.ndarray) -> float:
    wide = computed.astype(np.float64)
    return float(np.linalg.norm(stored - wide) / np.linalg.norm(wide))
