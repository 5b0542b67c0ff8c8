"""What every request passes before anything else: who may ask from where, how large and how slow a body may be.

Also what every answer carries: an id, security headers, a line in the log and its share of the metrics.
"""

import asyncio
import json
import logging
import re
import secrets
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .metrics import Metrics
from .problems import Problem, as_problem, problem_response
from .settings import ServeSettings

SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'self'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
GONE = 499  # how a request is logged whose client did not wait

access = logging.getLogger("spade_index.access")
log = logging.getLogger("spade_index.server")


class ClientGone(Exception):
    """Nobody waits for the answer."""


class Limits:
    """ASGI middleware around everything."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, metrics: Metrics, root: str) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._root = root
        self._held = 0  # bytes of bodies of requests that are being served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(scope, send)
        try:
            self._require_known_host(request)
            body = _Body(self, request, receive)
            try:
                await self._app(request.scope, body.receive, request.send)
            finally:
                self._held -= body.held
        except ClientGone:
            request.status = GONE
        except Exception as error:  # what no route's handler saw
            problem = as_problem(error, self._root)
            if problem.status_code == 500:
                log.exception("request %s failed", request.id)
            if not request.began:
                answer = problem_response(problem, scope["path"], request.id)
                await answer(scope, receive, request.send)
        finally:
            self._note(request)

    def hold(self, size: int) -> None:
        """So many more bytes of bodies. Raises Problem (503) if that is too much for all requests together."""
        if self._held + size > self._settings.held_bytes:
            self._metrics.refused.labels("bodies").inc()
            raise Problem(503, "too many images are being received", retry_after=1)
        self._held += size

    def _require_known_host(self, request: "_Request") -> None:
        """Pages of other sites must not use a browser to reach a service that trusts its own machine."""
        settings, headers = self._settings, request.headers
        host = _host_name(headers.get("host", ""))
        if settings.on_loopback and host not in (*LOOPBACK_NAMES, *settings.allowed_hosts):
            raise Problem(403, f"not served under the name {host[:100]!r}: allow it with --allow-host", field="Host")
        origin = headers.get("origin")
        if origin is None or request.scope["method"] in SAFE_METHODS or origin in settings.allowed_origins:
            return
        if origin.partition("://")[2] != headers.get("host"):
            raise Problem(403, f"not for pages of {origin[:100]}: allow it with --allow-origin", field="Origin")

    def _note(self, request: "_Request") -> None:
        seconds = time.perf_counter() - request.begun
        scope = request.scope
        route = getattr(scope.get("route"), "path", "other")
        method = request.method if request.method in (*SAFE_METHODS, "POST", "DELETE") else "other"
        self._metrics.requests.labels(method, route, str(request.status)).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        told = {"request_id": request.id, "method": request.method, "path": scope["path"], "status": request.status}
        client = scope.get("client")
        access.info("request", extra={"told": told | {"seconds": round(seconds, 4), "client": client and client[0]}})


class _Request:
    """One request, and what becomes of it."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.method = scope["method"]
        # HEAD is answered as GET is; the protocol leaves the body out.
        self.scope = {**scope, "method": "GET"} if self.method == "HEAD" else scope
        self.headers = Headers(scope=scope)
        given = self.headers.get("x-request-id", "")
        self.id = given if SANE_ID.fullmatch(given) else secrets.token_hex(8)
        self.scope.setdefault("state", {})["request_id"] = self.id
        self.status = 0
        self.began = False  # the answer
        self.begun = time.perf_counter()
        self._send = send

    async def send(self, message: Message) -> None:
        """Send, with the headers that every answer has."""
        if message["type"] == "http.response.start":
            self.began, self.status = True, message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.id
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if self.status == 408:  # the rest of the body is not waited for
                headers["Connection"] = "close"
        await self._send(message)


class _Body:
    """A request's body, as far as it is allowed."""

    def __init__(self, limits: Limits, request: _Request, receive: Receive) -> None:
        settings = limits._settings
        self._limits = limits
        self._receive = receive
        self._request = request
        # What is added goes to the disk as it comes, and is not held.
        self._adds = request.scope["path"].endswith("/images") and request.scope["method"] == "POST"
        self._most = settings.add_bytes if self._adds else settings.body_bytes
        self._size = 0
        self._told = int(request.headers.get("content-length", 0))  # the protocol lets numbers pass only
        self._complete = False
        self.held = 0

    async def receive(self) -> Message:
        """The next part. Raises Problem if it does not come, or is too much."""
        if self._complete:  # now it is waited for the client to go
            return await self._receive()
        if self._told > self._most:
            raise self._too_large()
        try:
            message = await asyncio.wait_for(self._receive(), self._patience())
        except TimeoutError:
            raise Problem(408, "the body comes too slowly, or not at all") from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        size = len(message.get("body", b""))
        self._size += size
        if self._size > self._most:
            raise self._too_large()
        if not self._adds:
            self._limits.hold(size)
            self.held += size
        self._complete = not message.get("more_body", False)
        return message

    def _patience(self) -> float:
        """Seconds to wait for the next part: not for ever for a body that drips, either."""
        settings = self._limits._settings
        due = self._request.begun + settings.body_seconds + self._size / settings.body_rate
        return max(0.0, min(settings.body_seconds, due - time.perf_counter()))

    def _too_large(self) -> Problem:
        return Problem(413, f"the body is over the limit of {self._most:,} bytes")


class JsonLines(logging.Formatter):
    """Log records as JSON, one a line."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "told", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _host_name(host: str) -> str:
    """The name in a Host header: without its port, and an IPv6 address without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
