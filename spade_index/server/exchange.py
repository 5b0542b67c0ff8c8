"""One request and its answer: the request id, and the headers that every answer carries.

The id is set here, not by asgi-correlation-id: the checks before the application and their answers name it, too.
"""

import re
import secrets
import time
from urllib.parse import unquote, unquote_to_bytes

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Scope, Send

from .limits import REQUEST_ID_LENGTH
from .problems import Problem

ABSOLUTE = re.compile(rb"https?://([^/?#@]+)(/.*)?", re.IGNORECASE | re.DOTALL)
ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")  # of which no character can be made
SANE_ID = re.compile(rf"[A-Za-z0-9._-]{{1,{REQUEST_ID_LENGTH}}}")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'self'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",  # pages of allowed origins ask by CORS, to which it does not apply
    "Cache-Control": "no-store",
}


class Exchange:
    """A request, and the state of its answer."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.method: str = scope["method"]
        # HEAD is answered like GET; the protocol leaves the body out.
        self.scope: Scope = {**scope, "method": "GET"} if self.method == "HEAD" else scope
        self.scope = _in_origin_form(self.scope)
        self.headers = Headers(scope=self.scope)
        given = self.headers.get("x-request-id", "")
        self.id = given if SANE_ID.fullmatch(given) else secrets.token_hex(8)
        self.scope.setdefault("state", {})["request_id"] = self.id
        self.status = 0
        self.answering = False  # whether the answer has begun
        self.begun = time.perf_counter()
        self._send = send

    def require_plain_target(self) -> None:
        """Raise Problem (400, 404) for a target that other programs may read as another one.

        A slash that is escaped belongs to a name, and no gallery has such a name. In the path that routes see it would
        part names.
        """
        path: bytes = self.scope.get("raw_path") or b""
        if not _is_text(path) or b"%2f" in path.lower():
            raise Problem(404, "there is nothing of that name")
        if not _is_text(self.scope.get("query_string") or b""):
            raise Problem(400, "the parameters are not percent-encoded UTF-8")

    async def send(self, message: Message) -> None:
        """Send a part of the answer, with the headers that every answer carries."""
        if message["type"] == "http.response.start":
            self.answering, self.status = True, message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.id
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if self.status == 408:  # the rest of the body is not waited for
                headers["Connection"] = "close"
        await self._send(message)


def _is_text(escaped: bytes) -> bool:
    """Return whether a part of a target is percent-encoded UTF-8."""
    try:
        unquote_to_bytes(escaped).decode()
    except UnicodeDecodeError:
        return False
    return not ESCAPE.search(escaped)


def _in_origin_form(scope: Scope) -> Scope:
    """Return the scope of a request whose target may be absolute, as proxies send it: its host replaces `Host`."""
    found = ABSOLUTE.fullmatch(scope.get("raw_path") or b"")
    if found is None:
        return scope
    host, raw_path = found[1], found[2] or b"/"
    headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
    path = unquote(raw_path.decode("ascii"))
    return {**scope, "raw_path": raw_path, "path": path, "headers": [*headers, (b"host", host)]}
