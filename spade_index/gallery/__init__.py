"""A gallery of normal images on disk."""

from .reader import CATALOG, Gallery

__all__ = ["CATALOG", "Gallery"]
