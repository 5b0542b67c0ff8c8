"""The spool drops the oldest verdicts when it is full, and knows what it holds."""

from pathlib import Path

import pytest

from spade_index.errors import InputError
from spade_index.sinks.spool import Spool, SpoolError


def test_the_oldest_are_dropped_when_it_is_full(tmp_path: Path) -> None:
    with Spool(tmp_path, most_bytes=100) as spool:
        spool.deliver_to(["one", "two"])
        assert spool.add([f"{number:020d}" for number in range(4)]) == 0
        assert (spool.waiting(), spool.bytes) == (4, 80)
        assert spool.add([f"{number:030d}" for number in range(4, 6)]) == 2
        assert [int(record) for _, record in spool.undelivered("one", 10)] == [2, 3, 4, 5]
        assert (spool.waiting(), spool.bytes) == (4, 100)
        assert spool.add(["x" * 101]) == 5
        assert (spool.waiting(), spool.bytes) == (0, 0)


def test_what_it_holds_is_known_after_deliveries_failures_and_a_new_start(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.deliver_to(["one", "two"])
        spool.add(["a", "bc", "def"])
        spool.delivered("one", spool.undelivered("one", 2)[-1][0])
        assert (spool.waiting(), spool.bytes) == (3, 6)
        spool.delivered("two", spool.undelivered("two", 1)[-1][0])
        assert (spool.waiting(), spool.bytes) == (2, 5)
        with pytest.raises(SpoolError, match="cannot be read or written"):
            spool.add(["g", None])  # type: ignore[list-item]  # which the table refuses
        assert (spool.waiting(), spool.bytes) == (2, 5)
    with Spool(tmp_path) as spool:
        assert (spool.waiting(), spool.bytes) == (2, 5)
        assert [record for _, record in spool.undelivered("two", 10)] == ["bc", "def"]
        with pytest.raises(InputError, match="another service"):
            Spool(tmp_path)
