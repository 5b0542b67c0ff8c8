"""Pin every package that the project is installed with: `make lock`.

requirements/lock.txt      what pip chooses today; `make demo`, `make test` and CI install from it
requirements/lowest.txt    each requirement of the package at its lower bound; CI runs the quick tests there, too

Both are pip constraints files: they say which version of a package, not whether it is installed. pip only resolves here
and installs nothing.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
EXTRAS = "cloud,cpu,demo,dev,heic,mqtt,ray,serve,test"
TOOLS = ("pip", "setuptools")


def main() -> None:
    """Write both files."""
    packages = resolve(EXTRAS)
    write("lock.txt", "What a fresh installation resolves to", packages)
    write(
        "lowest.txt",
        "The lower bounds of setup.py",
        resolve("cloud,cpu,demo,heic,mqtt,ray,serve,test", lower_bounds(packages)),
    )


def resolve(extras: str, constraints: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Return the metadata of each package that pip chooses for this project, under some constraints."""
    with tempfile.TemporaryDirectory() as folder:
        limits, report = Path(folder, "constraints.txt"), Path(folder, "report.json")
        limits.write_text("".join(f"{line}\n" for line in constraints))
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        command += ["--constraint", str(limits), "--report", str(report), *TOOLS, f"{HERE.parent}[{extras}]"]
        subprocess.run(command, check=True)
        return [package["metadata"] for package in json.loads(report.read_text())["install"]]


def lower_bounds(packages: Iterable[dict[str, Any]]) -> list[str]:
    """Return a constraint for each requirement of the project but those of its tools: the lowest version it allows."""
    project = next(package for package in packages if package["name"] == "spade_index")
    of_users = [line for line in project["requires_dist"] if not re.search(r'extra == "(dev|gpu|test)"', line)]
    return [re.sub(r"^([\w.-]+)(?:\[\w+\])?>=([\w.]+).*", r"\1==\2", line) for line in of_users]


def write(file: str, title: str, packages: Iterable[dict[str, Any]]) -> None:
    """Write a constraints file."""
    python = ".".join(map(str, sys.version_info[:2]))
    # A local version such as 2.13.0+cpu names a build that other package indexes lack.
    pins = {re.sub(r"[-_.]+", "-", one["name"]).lower(): one["version"].partition("+")[0] for one in packages}
    del pins["spade-index"]
    lines = [f"# {title}. Written by `make lock` with Python {python}; do not edit."]
    lines += [f"{name}=={pins[name]}" for name in sorted(pins)]
    (HERE / file).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
