"""JSON as its standard has it, for commands."""

from spade_index.exact import strict_json

__all__ = ["strict_json"]
