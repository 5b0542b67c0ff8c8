"""JSON as its standard has it."""

import json
from typing import Any


def strict_json(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON, which has no numbers that are not finite: they are null."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        finite = json.loads(json.dumps(value), parse_constant=lambda name: None)
        return json.dumps(finite, indent=indent, allow_nan=False)
