"""Decode within this process: for programs that fork thousands of times, where a decoding process takes most time."""

import os
from collections.abc import Sequence

from spade_index.errors import ImageError
from spade_index.images.workers.calls import Answer, Call, answered, read_answer
from spade_index.images.workers.pool import Asker, DecoderPool


class DecodersHere(DecoderPool):
    """Answers as decoding processes do, in this one."""

    @property
    def pids(self) -> list[int]:
        """The number of this process."""
        return [os.getpid()]

    def start(self, count: int) -> None:
        """Start none."""

    def answers(self, calls: Sequence[Call], asker: Asker | None = None) -> list[Answer | ImageError]:
        """Return the answers of calls, in order."""
        told = [[bytearray(part) for part in answered(call.work, call.read, call.arguments)] for call in calls]
        return [read_answer(parts, call.name, 0) for parts, call in zip(told, calls, strict=True)]


HERE = DecodersHere()
