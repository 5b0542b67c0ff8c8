"""Arguments of the client's calls: checked before anything is sent."""

from collections.abc import Mapping
from typing import Any

import httpx
import numpy as np

from spade_index.errors import InputError
from spade_index.exact import require_real

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
    """Raise InputError unless a value is a number of seconds that the system can wait."""
    require_real(name, value, least)
    if value > LONGEST:
        raise InputError(f"{name} must be at most {LONGEST:,.0f} seconds, not {value!r}")


def parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a request that are not None. Raises InputError for one that is no plain value."""
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()}
    for name, value in plain.items():
        if not isinstance(value, str | int | float | None) and name != REPEATED:
            raise InputError(f"{name} must be text, a number, True or False, not {value!r:.100}")
    return {name: value for name, value in plain.items() if value is not None}


def _open(url: object) -> str:
    """Return what may be an address for a message: without a user and password."""
    return " ".join(str(url).rpartition("@")[2].split())[:100]
