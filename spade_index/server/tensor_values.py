"""Values in the JSON of an inference, each of the type that the protocol gives it."""

from collections.abc import Callable, Mapping, Set
from typing import Any

from .limits import TENSOR_ID_LENGTH


class TensorError(ValueError):
    """A request that breaks the protocol, in one line."""

    status = 400  # of the answer


class WrongName(TensorError):
    """A request with a name that is unknown, or there more than once."""

    status = 422  # as everywhere in the service


def name_of(of: Mapping[str, Any]) -> str:
    """Return the name of an input or output. Raises TensorError."""
    name = of.get("name")
    if not isinstance(name, str):
        raise TensorError("an input or output has no name")
    return name[:100]


def id_of(request: Mapping[str, Any]) -> str | None:
    """Return the id that a request gives itself. Raises TensorError."""
    id = request.get("id")
    if id is None:
        return None
    if isinstance(id, bool) or not isinstance(id, str | int) or len(str(id)) > TENSOR_ID_LENGTH:
        raise TensorError(f"`id` is not a string of at most {TENSOR_ID_LENGTH:,} characters")
    return str(id)


def parameters_of(of: Mapping[str, Any], names: Set[str]) -> Mapping[str, Any]:
    """Return the parameters of a request or a tensor. Raises TensorError."""
    given = of.get("parameters")
    found = known({} if given is None else given, "`parameters`", names)
    for name, value in found.items():
        if not isinstance(value, str | int | float | None):  # bool is an int
            raise TensorError(f"parameter `{name}` must be a string, a number, true or false")
    return found


def known(value: Any, what: str, names: Set[str]) -> Mapping[str, Any]:
    """Return an object that has these names alone. Raises TensorError."""
    if not isinstance(value, dict):
        raise TensorError(f"{what} is no JSON object")
    for unknown in value.keys() - names:
        raise WrongName(f"{what}: unknown name {unknown[:100]!r}: there are {', '.join(sorted(names))}")
    return value


def flag(of: Mapping[str, Any], name: str, default: bool) -> bool:
    """Return a parameter that is true or false. Raises TensorError."""
    value = of.get(name, default)
    if not isinstance(value, bool):
        raise TensorError(f"parameter `{name}` must be true or false")
    return value


def require_ignored(parameters: Mapping[str, Any]) -> None:
    """Raise TensorError for a parameter of Triton's that changes nothing, and is not of its type."""
    for name, (is_right, what) in IGNORED.items():
        value = parameters.get(name)
        if value is not None and not is_right(value):
            raise TensorError(f"parameter `{name}` must be {what}")


def entries(request: Mapping[str, Any], name: str, most: int) -> list[Any]:
    """Return the objects of a list, at most so many; of none without it. Raises TensorError."""
    values = request.get(name)
    if values is None:
        return []
    if not isinstance(values, list):
        raise TensorError(f"`{name}` is no list")
    if len(values) > most:
        raise TensorError(f"`{name}` has more than {most} entries")
    return values


def is_count(value: Any) -> bool:
    """Return whether a value is a whole number from 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_label(value: Any) -> bool:
    return isinstance(value, str) or is_count(value)


IGNORED: dict[str, tuple[Callable[[Any], bool], str]] = {  # parameters of Triton's that change nothing, and their types
    "priority": (is_count, "a whole number from 0"),
    "timeout": (is_count, "a whole number from 0"),
    "sequence_id": (_is_label, "a string, or a whole number from 0"),
    "sequence_start": (_is_flag, "true or false"),
    "sequence_end": (_is_flag, "true or false"),
}
