"""How well are defects found? `spade-index evaluate` on a dataset in MVTec layout, with where the figures came from.

python benchmarks/accuracy.py DATASET --json benchmarks/results/NAME.json [--report FILE] [OPTIONS of evaluate]
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from spade_index.benchmarks.harness import environment


def main() -> None:
    """Evaluate, and add command, machine, versions and commit to the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    arguments, options = parser.parse_known_args()
    found = environment()  # of the code that is about to run
    start = "from spade_index.cli import main; main()"
    command = [sys.executable, "-c", start, "evaluate", str(arguments.dataset), "--json", str(arguments.json), *options]
    subprocess.run(command, check=True)
    figures = {**found, **json.loads(arguments.json.read_text()), "dataset": arguments.dataset.name}
    arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
