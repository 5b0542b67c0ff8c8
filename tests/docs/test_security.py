"""SECURITY.md names tests that there are."""

import re

from helpers.documents import ROOT


def test_the_tests_that_it_names_exist() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    names = re.findall(r"`([\w/]+\.py|tests/\w+)`", text)
    assert len(names) > 15
    for name in names:
        assert (ROOT / name).exists() or list((ROOT / "tests").rglob(name)), name
    for link in re.findall(r"\]\(([\w/]+\.md)", text):
        assert (ROOT / link).is_file()
