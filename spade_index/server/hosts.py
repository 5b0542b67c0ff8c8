"""Checks of `Host` and `Origin`: pages of other sites must not reach the service through a browser."""

import re

from starlette.datastructures import Headers

from .problems import Problem
from .settings import ServeSettings

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:@/?#,\s]*))(?::[0-9]{0,5})?")
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


def require_known_host(method: str, headers: Headers, settings: ServeSettings) -> None:
    """Check `Host` and `Origin`. Raises Problem (400, 403).

    On loopback, an unknown `Host` is DNS rebinding. A request that changes something must not come from a page of
    another origin, unless that is allowed.
    """
    _require_once(headers, "Host")
    _require_once(headers, "Origin")
    host = _host_name(headers.get("host", ""))
    if settings.on_loopback and host not in (*LOOPBACK_NAMES, *settings.allowed_hosts):
        raise Problem(403, f"not served under the name {host[:100]!r}: allow it with --allow-host", field="Host")
    origin = headers.get("origin")
    if origin is None or method in SAFE_METHODS or origin in settings.allowed_origins:
        return
    if origin.partition("://")[2] != headers.get("host"):
        raise Problem(403, f"not for pages of {origin[:100]}: allow it with --allow-origin", field="Origin")


def require_known_expectation(headers: Headers) -> None:
    """Raise Problem (417) for something that a client expects and that the service does not know."""
    if headers.get("expect", "100-continue").lower() != "100-continue":
        raise Problem(417, "nothing but 100-continue can be expected", field="Expect")


def _require_once(headers: Headers, name: str) -> None:
    if len(headers.getlist(name)) > 1:
        raise Problem(400, "give it once", field=name)


def _host_name(host: str) -> str:
    """Return the name in a `Host` header: without its port, and an IPv6 address without its brackets.

    Raises Problem (400) for anything else.
    """
    found = HOST.fullmatch(host)
    if found is None:
        raise Problem(400, "it is not a name or an address, and a port", field="Host")
    return (found[1] or found[2] or "").lower()
