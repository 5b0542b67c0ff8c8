"""What is asked of a decoder, and what it answers.

A call is pickled: a decoder trusts the process that has started it. An answer is JSON and bytes: who has taken over a
decoder through an image must not get further.
"""

import json
import os
import pickle
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from spade_index.errors import ImageError, InputError
from spade_index.images.marks import OwnOutput

from .messages import Part

Facts = dict[str, Any]  # as JSON has them
Plain = tuple[Facts, list[Part]]
Work = Callable[..., Plain]
UNREAD = b"?"  # answer to calls that could not be unpacked, as of a function of the main program
MOST_FACTS = 16 << 20  # bytes
WRONG = (KeyError, IndexError, TypeError, ValueError, ArithmeticError)  # raised by what a decoder should not answer
REFUSED, OWN, MEMORY, FAILED = "refused", "own", "memory", "failed"


@dataclass(frozen=True)
class Call:
    """A function of a module, and its arguments; the first of them returns the bytes of a file."""

    work: Work
    name: str  # of the image, for errors
    read: Callable[[], bytes]
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a function has returned."""

    facts: Facts
    parts: list[bytearray]


class Held:
    """Returns bytes that are in memory; pickled without a copy."""

    def __init__(self, data: Part) -> None:
        self._data = data

    def __call__(self) -> bytes:
        """Return the bytes."""
        return bytes(self._data)

    def __reduce_ex__(self, protocol: Any) -> tuple[type, tuple[pickle.PickleBuffer]]:
        """Pickle the bytes as a part of their own."""
        return Held, (pickle.PickleBuffer(self._data),)


class Failing:
    """Raises the error that reading a file has raised."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __call__(self) -> bytes:
        """Raise the error."""
        raise self._error


def pack(calls: Sequence[Call]) -> list[Part]:
    """Return calls as a message. A file that only this process can read is read here."""
    return _pickled(calls) or pack_read(calls)


def pack_read(calls: Sequence[Call]) -> list[Part]:
    """Return calls as a message, with all of their files."""
    packed = _pickled([replace(call, read=_read_here(call.read)) for call in calls])
    assert packed is not None
    return packed


def _read_here(read: Callable[[], bytes]) -> Callable[[], bytes]:
    try:
        return Held(read())
    except (ImageError, OSError) as error:
        return Failing(error)


def _pickled(calls: Sequence[Call]) -> list[Part] | None:
    buffers: list[pickle.PickleBuffer] = []
    try:
        plain = [(call.work, call.read, call.arguments) for call in calls]
        body = pickle.dumps((_folder(), plain), 5, buffer_callback=buffers.append)
    except (pickle.PicklingError, AttributeError, TypeError):  # a function within another, or of no module
        return None
    return [body, *(buffer.raw() for buffer in buffers)]


def unpack(parts: Sequence[Part]) -> list[tuple[Work, Callable[[], bytes], tuple[Any, ...]]]:
    """Return the functions, and their arguments, of calls that were packed; go to the folder that they came from."""
    calls: list[tuple[Work, Callable[[], bytes], tuple[Any, ...]]]
    folder, calls = pickle.loads(parts[0], buffers=parts[1:])
    if folder is not None and folder != _folder():
        with suppress(OSError):  # reading a file will tell
            os.chdir(folder)
    return calls


def _folder() -> str | None:
    """Return the working folder, by which files may be named; None if it was deleted."""
    with suppress(OSError):
        return os.getcwd()
    return None


def answered(work: Work, read: Callable[[], bytes], arguments: tuple[Any, ...]) -> list[Part]:
    """Call a function; return what it returns, or why it does not, as a message."""
    try:
        facts, parts = work(read, *arguments)
        return [json.dumps(facts).encode(), *parts]
    except OwnOutput as error:
        kind, text = OWN, error.path
    except InputError as error:
        kind, text = (MEMORY, "") if _for_want_of_memory(error) else (REFUSED, str(error))
    except MemoryError:
        kind, text = MEMORY, ""
    except Exception as error:
        kind, text = FAILED, f"{type(error).__name__}: {error}"
    return [json.dumps({"error": kind, "text": text}).encode()]


def _for_want_of_memory(error: BaseException | None) -> bool:
    """Return whether an error was caused by a lack of memory."""
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__
    return False


def read_answer(parts: Sequence[bytearray], name: str, memory: int) -> Answer | ImageError:
    """Return what a message says about an image. Raises ValueError for what no decoder sends."""
    facts = _facts(parts)
    if "error" not in facts:
        return Answer(facts, list(parts[1:]))
    text = str(facts.get("text"))
    if facts["error"] == OWN:
        return OwnOutput(text)
    if facts["error"] == MEMORY:
        return ImageError(f"{name}: decoding it takes more than {memory >> 20:,} MiB of memory")
    if facts["error"] == REFUSED:
        return ImageError(text)
    return ImageError(f"{name}: cannot be decoded ({' '.join(text.split())})")


def wants_memory(parts: Sequence[bytearray]) -> bool:
    """Return whether a message says that there was too little memory. Raises as `read_answer`."""
    return _facts(parts).get("error") == MEMORY


def _facts(parts: Sequence[bytearray]) -> Facts:
    if not parts or len(parts[0]) > MOST_FACTS:
        raise ValueError("not an answer")
    try:
        facts = json.loads(parts[0])
    except RecursionError as error:
        raise ValueError("not an answer") from error
    if not isinstance(facts, dict):
        raise ValueError("not an answer")
    return facts
