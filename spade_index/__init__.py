"""SPADE at scale: a gallery of normal images, searched image by image and pixel by pixel."""

from .backbone import Backbone, load_backbone
from .detector import Detection, Detector
from .errors import SpadeIndexError
from .gallery import Gallery, Neighbour
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
