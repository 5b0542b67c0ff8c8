"""The command line, `spade-index`."""

from .group import main

__all__ = ["main"]
