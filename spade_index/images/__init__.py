"""Find and decode photographs, and map places of the backbone's input back to their pixels."""

from .decode import DecodedImage, Geometry, covered, decode, load, load_parts, preprocess
from .files import ImageFile
from .find import find_images

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
