"""JSON that strangers send: UTF-8, no name twice in an object, no NaN, and few objects, counted before any is made."""

import json
from typing import Any


class JsonError(ValueError):
    """A text that is not the JSON that it should be, in one line."""


class RepeatedName(JsonError):
    """A name that is twice in an object."""


def parse_json(text: bytes, most: int) -> Any:
    """Return the value of a JSON text whose arrays and objects have at most so many elements. Raises JsonError.

    Brackets and commas are counted, those within strings too.
    """
    if sum(map(text.count, (b",", b"[", b"{"))) > most:
        raise JsonError(f"the JSON has more than {most:,} elements")
    try:
        return json.loads(text.decode(), object_pairs_hook=_distinct, parse_constant=_refuse)
    except JsonError:
        raise
    except (ValueError, RecursionError) as error:
        raise JsonError("the body is not JSON") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise RepeatedName(f"an object has the name {twice[:100]!r} twice")
    return found


def _refuse(constant: str) -> None:
    raise JsonError(f"{constant} is not JSON")
