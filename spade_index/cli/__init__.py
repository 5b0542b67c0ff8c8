"""The command line, `spade-index`."""

from .streams import silent_interrupt

with silent_interrupt():
    from .group import main

__all__ = ["main"]
