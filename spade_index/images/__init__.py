"""Find and decode photographs, and map places of the backbone's input back to their pixels."""

from .decode import DecodedImage, decode, load, load_parts, preprocess
from .files import ImageFile
from .find import find_images
from .geometry import Geometry, covered

__all__ = [
    "DecodedImage",
    "Geometry",
    "ImageFile",
    "covered",
    "decode",
    "find_images",
    "load",
    "load_parts",
    "preprocess",
]
