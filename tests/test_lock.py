"""The constraints files hold what setup.py requires; `make lock` writes them."""

import re
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
