"""Add up the tallies of a campaign that ran in parts, each with a seed of its own.

python -m durability.parts benchmarks/results/hostile.json part-1.json part-2.json
"""

import json
import sys
from pathlib import Path
from typing import Any

from spade_index.benchmarks.harness import environment

APART = ("seed", "environment")


def added(tallies: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the sums of the numbers of all tallies, by their names."""
    total: dict[str, Any] = {}
    for name in dict.fromkeys(name for tally in tallies for name in tally if name not in APART):
        values = [tally[name] for tally in tallies if name in tally]
        total[name] = added(values) if isinstance(values[0], dict) else sum(values)
    return total


def joined(tallies: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the tally of a whole campaign. Raises ValueError for a seed that is there twice."""
    seeds = [tally["seed"] for tally in tallies]
    if len({*seeds}) < len(seeds):
        raise ValueError("a seed is there twice: its galleries would count twice")
    where = environment() | {"command": "python -m durability.parts WHOLE PARTS"}  # whose files are anywhere
    return {"seeds": sorted(seeds), **added(tallies), "environment": where}


def main() -> None:
    whole, *parts = map(Path, sys.argv[1:])
    whole.write_text(json.dumps(joined([json.loads(part.read_text()) for part in parts]), indent=1) + "\n")


if __name__ == "__main__":
    main()
