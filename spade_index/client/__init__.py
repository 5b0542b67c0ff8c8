"""The HTTP service from Python. Imports nothing of the rest but `errors`."""

from .client import Client

__all__ = ["Client"]
