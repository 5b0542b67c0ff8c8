"""Photographs to arrays, and places of arrays back to pixels of the photographs."""

from .decode import DecodedImage, Geometry, covered, decode, load, preprocess
from .find import ImageFile, find_images

__all__ = ["DecodedImage", "Geometry", "ImageFile", "covered", "decode", "find_images", "load", "preprocess"]
