"""The constraints files hold what setup.py requires; `make lock` writes them."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BOUNDS = {
    re.sub(r"[-_.]+", "-", name).lower(): bound
    for name, bound in re.findall(r'"([\w.-]+)(?:\[\w+\])?>=([\w.]+)"', (ROOT / "setup.py").read_text())
}
GPU = {"cupy-cuda13x", "faiss-gpu"}
TOOLS = set(re.findall(r'"([\w-]+)', (ROOT / "setup.py").read_text().partition('"test": [')[2].partition("entry")[0]))


def pins(file: str) -> dict[str, str]:
    """Return the version that a constraints file has for each package."""
    lines = (ROOT / "requirements" / file).read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("file", ["lock.txt", "lowest.txt"])
def test_versions_are_exact_releases_from_a_package_index(file: str) -> None:
    for name, version in pins(file).items():
        assert re.fullmatch(r"\d[\w.]*", version), name


def test_the_lock_has_every_requirement_at_or_above_its_lower_bound() -> None:
    for name, bound in BOUNDS.items():
        assert name in GPU or parts(pins("lock.txt")[name]) >= parts(bound), name


def test_the_lowest_versions_are_the_lower_bounds() -> None:
    lowest = pins("lowest.txt")
    for name in BOUNDS.keys() - GPU - TOOLS:
        assert parts(lowest[name]) == parts(BOUNDS[name]), name


def parts(version: str) -> list[int]:
    """Return the numbers of a version, without zeros at its end."""
    numbers = [int(part) for part in re.findall(r"\d+", version)]
    while numbers and not numbers[-1]:
        numbers.pop()
    return numbers


PROMISED = {
    "faiss-cpu": "1.15",  # earlier ones open a truncated index, and answer wrongly
    "faiss-gpu": "1.15",
    "h11": "0.16",  # earlier ones take chunks that end otherwise
    "h5py": "3.16",  # earlier ones break files that two threads write
    "pillow": "13.0",  # earlier ones write beyond buffers, and take 480 MB for a TIFF of 1 MB
    "pillow-heif": "1.8.1",
    "python-multipart": "0.0.30",  # earlier ones take quadratic time for a header
}


def test_no_bound_is_below_what_the_promises_need() -> None:
    for name, least in PROMISED.items():
        assert parts(BOUNDS[name]) >= parts(least), name


NAMES = {  # of packages, by what is imported of them
    "PIL": "pillow",
    "faiss": "faiss-cpu",
    "paho": "paho-mqtt",
    "skimage": "scikit-image",
}
OF_OTHERS = {"anyio": "fastapi", "starlette": "fastapi", "markupsafe": "jinja2"}  # part of what these give


def test_what_is_imported_is_required() -> None:
    for name in imported(ROOT / "spade_index"):
        package = OF_OTHERS.get(name) or NAMES.get(name) or name.replace("_", "-")
        assert package in BOUNDS, name


def imported(folder: Path) -> set[str]:
    """Return the names of the packages of others that modules below a folder import, anywhere in them."""
    modules: set[str] = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                modules |= {one.name for one in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(str(node.module))
    return {name.partition(".")[0] for name in modules} - sys.stdlib_module_names - {"spade_index"}
