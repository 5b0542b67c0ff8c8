"""Tallies of the parts of a campaign are added up."""

import pytest

from durability.parts import joined


def test_numbers_are_added_by_their_names() -> None:
    parts = [
        {"seed": 2, "faults": 1, "uses": {"query": {"right": 3}}, "seconds": 5},
        {"seed": 1, "faults": 0, "uses": {"query": {"right": 1, "wrong": 2}, "add": {"right": 1}}, "seconds": 6},
    ]
    found = joined(parts)
    assert found.pop("environment")["commit"] is not None
    uses = {"query": {"right": 4, "wrong": 2}, "add": {"right": 1}}
    assert found == {"seeds": [1, 2], "faults": 1, "uses": uses, "seconds": 11}


def test_a_part_counts_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        joined([{"seed": 1}, {"seed": 1}])
