"""The pixel search in plain torch, on any device: a few gallery maps at a time, never a matrix of P by K*P."""

from .search import SearchStats, nearest_pixels

__all__ = ["SearchStats", "nearest_pixels"]
