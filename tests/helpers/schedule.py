"""A scheduler that lets the steps of several threads happen in one order only, to try every order of a race."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import permutations
from typing import Any

TURN = 1.0  # seconds to wait for a turn that another step keeps from coming, by a lock


class Schedule:
    """Steps that come in the order of their names, once each; a later step of a name is free."""

    def __init__(self, *order: str) -> None:
        self._left = list(order)
        self._taken: set[str] = set()
        self._changed = threading.Condition()
        self.skipped: list[str] = []  # steps that could not wait for their turn

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Wait until all earlier steps were taken, and take this one in the block."""
        with self._changed:
            waits = name in self._left and name not in self._taken
            self._taken.add(name)  # what is called within the step is free
            if waits and not self._changed.wait_for(lambda: self._left[:1] == [name], TURN):
                self.skipped.append(name)
        try:
            yield
        finally:
            with self._changed:
                if waits:
                    self._left.remove(name)
                    self._changed.notify_all()

    def stepped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose calls are a step."""

        def call(*arguments: Any, **options: Any) -> Any:
            with self.step(name):
                return function(*arguments, **options)

        return call

    @property
    def done(self) -> bool:
        """Whether all steps were taken."""
        return not self._left


def orders(*threads: Sequence[str]) -> list[tuple[str, ...]]:
    """Return all orders of the steps of several threads, each of which takes its own in turn."""
    steps = [step for thread in threads for step in thread]
    found = dict.fromkeys(permutations(steps))
    return [order for order in found if all(_in_turn(order, thread) for thread in threads)]


def _in_turn(order: tuple[str, ...], thread: Sequence[str]) -> bool:
    return [step for step in order if step in thread] == list(thread)
