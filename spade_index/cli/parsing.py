"""Parse the values of options that hold several."""

from typing import overload

from spade_index.errors import InputError
from spade_index.exact import number, whole


def names(text: str | None) -> tuple[str, ...] | None:
    """Return the names of a comma-separated list; None without one."""
    return tuple(name.strip() for name in text.split(",")) if text else None


@overload
def numbers(what: str, text: str, count: int | None = None) -> tuple[float, ...]: ...
@overload
def numbers(what: str, text: None, count: int | None = None) -> None: ...
def numbers(what: str, text: str | None, count: int | None = None) -> tuple[float, ...] | None:
    """Return the numbers of a comma-separated list. Raises InputError unless there are `count`, where that is given."""
    if text is None:
        return None
    try:
        values = tuple(number(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{what}: {text!r} is not a comma-separated list of finite numbers ({error})") from error
    if count is not None and len(values) != count:
        raise InputError(f"{what}: give {count} comma-separated numbers, not {text!r}")
    return values


def whole_numbers(what: str, text: str) -> tuple[int, ...]:
    """Return the whole numbers of a comma-separated list. Raises InputError."""
    try:
        return tuple(map(whole, text.split(",")))
    except ValueError as error:
        raise InputError(f"{what} must be whole numbers, not {text!r}") from error


def size(text: str | None) -> tuple[int, int] | None:
    """Return (height, width) of EDGE or HEIGHTxWIDTH. Raises InputError."""
    if text is None:
        return None
    height, two, width = text.partition("x")
    try:
        return whole(height), whole(width if two else height)
    except ValueError as error:
        raise InputError(f"input size: give an edge (224) or HEIGHTxWIDTH (224x320), not {text!r}") from error
