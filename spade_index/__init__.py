"""SPADE at scale: a gallery of normal images, searched image by image and pixel by pixel."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spade_index.features.backbone import Backbone, load_backbone
    from spade_index.gallery.index.search import Neighbour
    from spade_index.gallery.reader import Gallery
    from spade_index.gallery.write.writer import GalleryWriter
    from spade_index.images.find import find_images
    from spade_index.method.detection import Detection
    from spade_index.method.detector import Detector

    from .errors import SpadeIndexError
    from .settings import ExtractionSettings, Preprocessing, SearchSettings

__all__ = [
    "Backbone",
    "Detection",
    "Detector",
    "ExtractionSettings",
    "Gallery",
    "GalleryWriter",
    "Neighbour",
    "Preprocessing",
    "SearchSettings",
    "SpadeIndexError",
    "find_images",
    "load_backbone",
]

_MODULES = {
    "errors": ("SpadeIndexError",),
    "features.backbone": ("Backbone", "load_backbone"),
    "gallery.index.search": ("Neighbour",),
    "gallery.reader": ("Gallery",),
    "gallery.write.writer": ("GalleryWriter",),
    "images.find": ("find_images",),
    "method.detection": ("Detection",),
    "method.detector": ("Detector",),
    "settings": ("ExtractionSettings", "Preprocessing", "SearchSettings"),
}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used: torch takes seconds, and `spade-index list` needs none."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
