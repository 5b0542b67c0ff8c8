"""Arguments of the client's calls: checked before anything is sent."""

from collections.abc import Iterable, Mapping
from typing import Any

import httpx
import numpy as np

from spade_index.errors import InputError

LONGEST = 1e9  # seconds that the system can wait
REPEATED = "box"  # the one parameter that may be there more than once


def address(url: str) -> httpx.URL:
    """Return the address of a service. Raises InputError."""
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        raise InputError(f"{_open(url)}: not the address of a service: it begins with http:// or https://")
    try:
        found = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeEncodeError) as error:
        raise InputError(f"{_open(url)}: not the address of a service ({error})") from error
    if not found.host or "?" in url or "#" in url:
        raise InputError(f"{_open(url)}: not the address of a service: it has a host, and neither ? nor #")
    return found


def shown(url: httpx.URL) -> str:
    """Return a URL for messages: without a user, password and parameters."""
    return str(url.copy_with(userinfo=b"", query=None))


def key_headers(api_key: str | None) -> dict[str, str]:
    """Return the headers that carry a key, if there is one. Raises InputError, without the key."""
    if not api_key and isinstance(api_key, str | None):
        return {}
    if not isinstance(api_key, str) or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
        raise InputError("the API key is not the key of a service: it is ASCII without spaces")
    return {"Authorization": f"Bearer {api_key}"}


def require_seconds(name: str, value: float, least: float = 0.0) -> None:
    """Raise InputError unless a value is a number of seconds."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not least <= value <= LONGEST:
        raise InputError(f"{name} must be a number of seconds, {least:g} to {LONGEST:,.0f}, not {value!r}")


def require_count(name: str, value: int) -> None:
    """Raise InputError unless a value is a whole number from 1."""
    if type(value) is not int or value < 1:
        raise InputError(f"{name} must be a whole number from 1, not {value!r}")


def parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a request that are not None. Raises InputError for one that is no plain value."""
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()}
    for name, value in plain.items():
        if not isinstance(value, str | int | float | None) and name != REPEATED:
            raise InputError(f"{name} must be text, a number, True or False, not {value!r:.100}")
    return {name: value for name, value in plain.items() if value is not None}


def ids_of(ids: Iterable[str]) -> list[str]:
    """Return the ids of images. Raises InputError: a text alone would be taken for its letters."""
    found = [] if isinstance(ids, str | bytes) or not isinstance(ids, Iterable) else [*ids]
    if not found or not all(isinstance(id, str) for id in found):
        raise InputError(f"ids must be a list of ids of images, not {ids!r:.100}")
    return found


def _open(url: object) -> str:
    """Return what may be an address for a message: without a user and password."""
    return " ".join(str(url).rpartition("@")[2].split())[:100]
