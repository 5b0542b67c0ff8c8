"""The table of limits in docs/serve.md."""

import re
from dataclasses import dataclass

from .documents import ROOT


@dataclass(frozen=True)
class Limit:
    """One limit, as the table states it."""

    name: str
    default: str
    option: str
    answer: str

    @property
    def status(self) -> int:
        """The first status of the answer."""
        found = re.search(r"\b[45]\d\d\b", self.answer)
        assert found, self
        return int(found[0])


def _rows() -> dict[str, Limit]:
    section = (ROOT / "docs" / "serve.md").read_text().partition("## Limits")[2].partition("\n## ")[0]
    limits = {}
    for line in re.findall(r"^\| `.*\|$", section, re.MULTILINE):
        names, _, defaults, option, answer = (cell.strip() for cell in line.strip("|").split(" | "))
        for name, default in zip(names.split("; "), defaults.split("; "), strict=True):
            name = name.strip("` ")
            assert name not in limits, name
            limits[name] = Limit(name, default, option.strip("`"), answer)
    return limits


LIMITS = _rows()


def status(name: str) -> int:
    """Return the status with which a request beyond a limit is answered."""
    return LIMITS[name].status
