"""The record of a verdict: one schema, for `watch` and for the service; docs/watch.md names its fields."""

import time
from datetime import UTC, datetime
from typing import Any


def head_of(id: str, arrival: float, gallery: str | None, error: str | None) -> dict[str, Any]:
    """Return the first fields of a verdict that is given now.

    Args:
        id: unique, and the same whenever it is delivered.
        arrival: of the image, in seconds of the epoch.
        gallery: its name; None: the image belongs to none.
        error: why there is no verdict.
    """
    return {
        "id": id,
        "arrival": _text(arrival),
        "judged": _text(time.time()),
        "gallery": gallery,
        "error": error,
    }


def _text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
