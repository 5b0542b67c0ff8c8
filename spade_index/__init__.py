"""SPADE at scale: a gallery of normal images, searched image by image and pixel by pixel."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backbone import Backbone, load_backbone
    from .detection import Detection
    from .detector import Detector
    from .errors import SpadeIndexError
    from .gallery import Gallery
    from .image_search import Neighbour
    from .images import find_images
    from .settings import ExtractionSettings, Preprocessing, SearchSettings
    from .writer import GalleryWriter

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
    "backbone": ("Backbone", "load_backbone"),
    "detection": ("Detection",),
    "detector": ("Detector",),
    "errors": ("SpadeIndexError",),
    "gallery": ("Gallery",),
    "image_search": ("Neighbour",),
    "images": ("find_images",),
    "settings": ("ExtractionSettings", "Preprocessing", "SearchSettings"),
    "writer": ("GalleryWriter",),
}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used: torch takes seconds, and `spade-index list` needs none."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
