"""Checks of `Host` and `Origin`: pages of other sites must not reach the service through a browser."""

from starlette.datastructures import Headers

from .problems import Problem
from .settings import ServeSettings

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


def require_known_host(method: str, headers: Headers, settings: ServeSettings) -> None:
    """Check `Host` and `Origin`. Raises Problem (403).

    On loopback, an unknown `Host` is DNS rebinding. A request that changes something must not come from a page of
    another origin, unless that is allowed.
    """
    host = _host_name(headers.get("host", ""))
    if settings.on_loopback and host not in (*LOOPBACK_NAMES, *settings.allowed_hosts):
        raise Problem(403, f"not served under the name {host[:100]!r}: allow it with --allow-host", field="Host")
    origin = headers.get("origin")
    if origin is None or method in SAFE_METHODS or origin in settings.allowed_origins:
        return
    if origin.partition("://")[2] != headers.get("host"):
        raise Problem(403, f"not for pages of {origin[:100]}: allow it with --allow-origin", field="Origin")


def _host_name(host: str) -> str:
    """Return the name in a `Host` header: without its port, and an IPv6 address without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
