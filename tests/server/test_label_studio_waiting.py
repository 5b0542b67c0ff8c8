"""How many annotations of Label Studio may wait, and how large their images may be."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from spade_index.server import limits
from spade_index.server.label_studio.annotations import Annotations, Statement
from spade_index.server.problems import Problem

from helpers.limit_table import status


def waiting_for(*statements: Statement, body_bytes: int = 1000) -> None:
    """Let annotations wait, none of which is looked at."""

    async def never(reference: str) -> Any:
        await asyncio.Event().wait()

    async def take() -> None:
        waiting = Annotations(SimpleNamespace(settings=SimpleNamespace(body_bytes=body_bytes)), never)
        for one in statements:
            waiting.take(one)

    asyncio.run(take())


def test_limit_annotations_waiting() -> None:
    one = Statement("plain", 1, None, "client")
    waiting_for(*[one] * limits.ANNOTATIONS_WAITING)
    with pytest.raises(Problem, match="too many") as full:
        waiting_for(*[one] * (limits.ANNOTATIONS_WAITING + 1))
    assert full.value.status_code == status("annotations_waiting")


def test_images_that_wait_in_tasks_are_as_large_as_a_query_in_all() -> None:
    one = Statement("plain", 1, "x" * 500, "client")
    waiting_for(one, one)
    with pytest.raises(Problem, match="too many"):
        waiting_for(one, one, one)
