"""How well are defects found? `spade-index evaluate` on a dataset in MVTec layout, with the origin of the figures.

python benchmarks/accuracy.py DATASET --json benchmarks/results/NAME.json [OPTIONS of evaluate]
"""

import json
import subprocess
import sys
from pathlib import Path

import click

from spade_index.benchmarks.harness import environment, write_json


@click.command(help=__doc__, context_settings={"ignore_unknown_options": True})
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--json", "json_file", type=click.Path(path_type=Path), required=True)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def main(dataset: Path, json_file: Path, options: tuple[str, ...]) -> None:
    """Evaluate, and add command, machine, versions and commit to the figures."""
    found = environment()  # of the code that is about to run
    command = [sys.executable, "-m", "spade_index", "evaluate", str(dataset), "--json", str(json_file), *options]
    subprocess.run(command, check=True)
    write_json(json_file, {**found, **json.loads(json_file.read_text()), "dataset": dataset.name})


if __name__ == "__main__":
    main()
