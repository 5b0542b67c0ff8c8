"""Numbers, times and JSON that people and programs give: read strictly, by one rule wherever they enter.

A number is written as in JSON: ASCII digits, a minus sign before them, no space, plus sign, underscore or leading zero,
and digits after a point; a 0 before it may be left out, but not in JSON. A whole number has neither a point nor an
exponent. Python's `int` and `float` take more, so that another program may read the same text as another number, or as
none.

JSON has no name twice in an object, no constant such as NaN, no number beyond those of 64-bit floating point, and no
half of a surrogate pair, which is no text.

A time is of UTC: a date, or a date, `T` and a time to the minute or second, with or without a `Z` or `+00:00`.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, NoReturn, get_args

from spade_index.errors import InputError

DIGITS = 1000  # of a whole number
WHOLE = re.compile(rf"-?(?:0|[1-9][0-9]{{0,{DIGITS - 1}}})")
NUMBER = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
TIME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:T((?:[01][0-9]|2[0-3]):[0-9]{2})(:[0-9]{2})?(?:Z|\+00:00)?)?")
HALF = re.compile(r"\\u[dD][89a-fA-F]")  # of a pair, or a whole one


class JsonError(ValueError):
    """A text that is not the JSON that it should be, in one line."""


class RepeatedName(JsonError):
    """A name that is twice in an object."""


def whole(text: str) -> int:
    """Return a whole number. Raises ValueError for any other text."""
    if not WHOLE.fullmatch(text):
        raise ValueError(f"{text[:100]!a} is not a whole number: write digits alone")
    return int(text)


def number(text: str) -> float:
    """Return a number, which is finite. Raises ValueError for any other text."""
    if not NUMBER.fullmatch(text):
        raise ValueError(f"{text[:100]!a} is not a number: write it as in JSON: 5, -0.5 or 1e-3")
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:100]!a} is not a finite number")
    return value


def flag(text: str) -> bool:
    """Return whether a text is `true`; it may be `false` as well. Raises ValueError for any other."""
    if text not in ("true", "false"):
        raise ValueError(f"{text[:100]!a} is neither true nor false")
    return text == "true"


def first_second(text: str) -> str:
    """Return the first second of a date or time, as `2026-11-29T14:20:00+00:00`. Raises ValueError for other texts."""
    return _second(text, "00:00", ":00")


def last_second(text: str) -> str:
    """Return the last second of a date, a minute or a second, as `first_second` does."""
    return _second(text, "23:59", ":59")


def _second(text: str, minute: str, second: str) -> str:
    try:
        if not (parts := TIME.fullmatch(text)):
            raise ValueError
        written = f"{parts[1]}T{parts[2] or minute}{parts[3] or second}"
        return datetime.fromisoformat(written).replace(tzinfo=UTC).isoformat()
    except ValueError:
        message = f"{text[:100]!a} is not a date or time: write 2026-11-29, or 2026-11-29T14:20:00Z in UTC"
        raise ValueError(message) from None


def require_kinds(settings: Any) -> None:
    """Raise InputError if a number or a flag of a dataclass is none, by the annotation of its field.

    Whole numbers have 64 bits, others are finite. What is true or false is no number, as in JSON.
    """
    for field in fields(settings):
        kinds, value = {*get_args(field.type)} or {field.type}, getattr(settings, field.name)
        if value is None and type(None) in kinds:
            continue
        if bool in kinds and not isinstance(value, bool):
            raise InputError(f"{field.name} must be True or False, not {value!r}")
        if int in kinds and (type(value) is not int or abs(value) >= 2**63):
            raise InputError(f"{field.name} must be a whole number (int), not {value!r}")
        if float in kinds and (
            isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value)
        ):
            raise InputError(f"{field.name} must be a finite number, not {value!r}")


def require_whole(name: str, value: object, least: int) -> None:
    """Raise InputError if a value is no whole number of 64 bits (int), or is less."""
    if type(value) is not int or not least <= value < 2**63:
        raise InputError(f"{name} must be a whole number from {least}, not {value!r:.100}")


def require_real(name: str, value: object, least: float) -> None:
    """Raise InputError if a value is no finite number, or is less."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not least <= value < math.inf:  # type: ignore[operator]
        raise InputError(f"{name} must be a finite number from {least:g}, not {value!r:.100}")


def require_texts(name: str, values: object) -> list[str]:
    """Return texts as a list. Raises InputError: one text alone would be taken for its letters."""
    found: list[Any] = [*values] if isinstance(values, Iterable) and not isinstance(values, str | bytes) else [None]
    if not all(isinstance(value, str) for value in found):
        raise InputError(f"{name} must be a list of texts, not {values!r:.100}")
    return found


def read_json(text: str) -> Any:
    """Return the value of a JSON text. Raises JsonError."""
    large: list[str] = []  # numbers that are read as infinite

    def real(written: str) -> float:
        value = float(written)
        if math.isinf(value):
            large.append(written[:100])
        return value

    try:
        value = json.loads(text, object_pairs_hook=_sound, parse_constant=_refuse, parse_float=real)
        if HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except JsonError:
        raise
    except UnicodeEncodeError as error:
        raise JsonError("a string has half of a surrogate pair, which is no text") from error
    except RecursionError as error:
        raise JsonError("not JSON that can be read: it is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise JsonError(f"not JSON: {error}") from error
    except ValueError as error:  # of `int`
        raise JsonError("not JSON that can be read: a whole number has too many digits") from error
    if large:
        raise JsonError(f"{large[0]} is not finite: it is beyond the largest number")
    return value


def strict_json(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON, which has no numbers that are not finite: they are null."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        finite = json.loads(json.dumps(value), parse_constant=lambda name: None)
        return json.dumps(finite, indent=indent, allow_nan=False)


def _sound(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        times = Counter(name for name, _ in pairs)
        twice = next(name for name in found if times[name] > 1)
        raise RepeatedName(f"an object has the name {twice[:100]!a} twice")
    for name, value in pairs:
        if isinstance(value, float) and math.isinf(value):
            raise JsonError(f"{name[:100]!a} is beyond the largest number")
    return found


def _refuse(constant: str) -> NoReturn:
    raise JsonError(f"{constant} is not JSON: it is not finite")
