"""What a sink is, and what it delivers."""

import json
from collections.abc import Sequence
from typing import Any, Protocol


class Unreachable(Exception):
    """A sink takes nothing now; one line says why."""


class Sink(Protocol):
    """Takes verdicts in their order, each at least once: `id` tells a receiver which it has already."""

    name: str  # under which the spool remembers what it has got
    batch: int  # verdicts at a time

    def deliver(self, verdicts: Sequence[str]) -> None:
        """Take these records in JSON, all of them, for good. Raises Unreachable; then they come again."""

    def close(self) -> None:
        """Release what is open."""


def stamped(record: str, by: str) -> dict[str, Any]:
    """Return a record with the name of the sink that delivers it."""
    found: dict[str, Any] = json.loads(record)
    return {"id": found.pop("id"), "arrival": found.pop("arrival"), "delivered_by": by, **found}
