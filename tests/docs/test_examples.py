"""Every Python example in README.md and docs/ works as it is written, and every link of README.md leads somewhere."""

import re
from pathlib import Path

import pytest

from helpers.documents import PAGES, ROOT, SERVED, blocks

EXAMPLES = [
    pytest.param(example, id=f"{page.name}-{number}")
    for page in PAGES
    if page.name not in SERVED
    for number, example in enumerate(blocks(page.read_text(), "python"))
    if "spade_index.client" not in example  # run in tests/server, beside a service
]


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.usefixtures("workspace")
def test_an_example_works(example: str) -> None:
    exec(compile(example, "example", "exec"), {"__name__": "example"})


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent == ROOT], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130
