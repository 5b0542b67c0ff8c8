"""Calls of the code under test that a test replaces: to kill the process in one of them, or to let it fail.

A target is the owner of a function and its name: a class, or the module that looks the function up.
"""

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

Target = tuple[object, str]


def on_call(patch: pytest.MonkeyPatch, target: Target, hook: Callable[[int, Callable[[], Any]], Any]) -> None:
    """Let `hook` answer calls of a function: it gets the call's number, from 1 on, and the call itself."""
    owner, name = target
    original: Any = getattr(owner, name)
    calls = 0

    def replacement(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return hook(calls, lambda: original(*arguments, **options))

    patch.setattr(owner, name, replacement)


def die_at(target: Target, call: int, before: bool = True) -> None:
    """Make this process kill itself before the given call of a function, or after it."""

    def hook(number: int, proceed: Callable[[], Any]) -> Any:
        if number == call and before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = proceed()
        if number == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    on_call(pytest.MonkeyPatch(), target, hook)


def fail_from(patch: pytest.MonkeyPatch, target: Target, call: int, error: Exception) -> None:
    """Make the given call of a function and all later ones raise an error."""

    def hook(number: int, proceed: Callable[[], Any]) -> Any:
        if number >= call:
            raise error
        return proceed()

    on_call(patch, target, hook)
