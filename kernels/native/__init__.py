"""The pixel search on a processor with AMX or AVX-512, compiled when the package is installed."""

from .search import nearest_pixels

__all__ = ["nearest_pixels"]
