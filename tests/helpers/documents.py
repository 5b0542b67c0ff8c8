"""The commands and the Python examples in README.md and docs/."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# Their commands, and those to curl in README.md, are run by tests/server.
SERVED = ("serve.md", "feedback.md", "protocols.md", "operate.md")


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def statements(block: str) -> list[str]:
    """Return the commands of a block. An indented line continues the command before it."""
    return re.findall(r"^\S.*(?:\n .*)*", block, re.MULTILINE)


def commands(page: Path) -> list[str]:
    """Return all commands of a page, in order: of its fenced blocks, and of indented lines that call our programs."""
    text = page.read_text()
    if page.name in SERVED:
        return re.findall(r"^    (?:\$ )?((?:pip|spade-index) .*)$", text, re.MULTILINE)
    return [line for block in blocks(text, "bash") for line in statements(block) if not line.startswith("curl ")]
