"""Verdicts that a receiver refuses for good: they are set aside, so that the next ones come through."""

import json
from collections.abc import Callable
from pathlib import Path

from .lines import JsonLines

NAME = "refused.jsonl"


class Refusals:
    """Appends refused verdicts to a file of JSON lines, and says so once for each status."""

    def __init__(self, path: Path, receiver: str, say: Callable[[str], None]) -> None:
        """Open the file. Raises InputError.

        Args:
            receiver: its kind and host, for messages.
            say: prints a line, for a person.
        """
        self._lines = JsonLines(path, "refused")
        self._path, self._receiver, self._say = path, receiver, say
        self._said: set[int] = set()  # statuses

    def keep(self, record: str, status: int) -> None:
        """Set a record aside, with the status that it was refused by. Raises Unreachable if the disk is full."""
        self._lines.deliver([json.dumps({**json.loads(record), "status": status})])
        if status not in self._said:
            self._said.add(status)
            self._say(
                f"{self._receiver}: answers {status}, which another attempt does not mend: "
                f"such verdicts are kept in {self._path}"
            )

    def close(self) -> None:
        """Close the file."""
        self._lines.close()
