"""SPADE at scale: a gallery of normal images, searched image by image and pixel by pixel."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import SpadeIndexError as SpadeIndexError
    from .features.backbone import Backbone as Backbone
    from .features.backbone import load_backbone as load_backbone
    from .gallery.index.search import Neighbour as Neighbour
    from .gallery.opening import open_gallery as open_gallery
    from .gallery.reader import Gallery as Gallery
    from .gallery.store.record import ImageOrigin as ImageOrigin
    from .gallery.store.record import NewImage as NewImage
    from .gallery.store.record import StoredImage as StoredImage
    from .gallery.write.writer import GalleryWriter as GalleryWriter
    from .images.find import find_images as find_images
    from .method.detection import Detection as Detection
    from .method.detector import Detector as Detector
    from .settings import ExtractionSettings as ExtractionSettings
    from .settings import Preprocessing as Preprocessing
    from .settings import SearchSettings as SearchSettings

_MODULES = {
    "Backbone": "features.backbone",
    "Detection": "method.detection",
    "Detector": "method.detector",
    "ExtractionSettings": "settings",
    "Gallery": "gallery.reader",
    "GalleryWriter": "gallery.write.writer",
    "ImageOrigin": "gallery.store.record",
    "Neighbour": "gallery.index.search",
    "NewImage": "gallery.store.record",
    "Preprocessing": "settings",
    "SearchSettings": "settings",
    "SpadeIndexError": "errors",
    "StoredImage": "gallery.store.record",
    "find_images": "images.find",
    "load_backbone": "features.backbone",
    "open_gallery": "gallery.opening",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch takes seconds to import, and `spade-index list` needs none."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    return value
