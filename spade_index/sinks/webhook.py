"""Post verdicts to a web address, one at a time and in order, with a signature of their bytes."""

import hmac
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from spade_index.errors import InputError

from .contract import Unreachable, stamped
from .refusals import Refusals
from .secrets import LARGEST, read_secret

VARIABLE = "SPADE_INDEX_WEBHOOK_KEY"
SHORTEST = 16  # bytes of a key
WAIT = 10.0  # seconds without a byte
WHOLE = 30.0  # seconds of an exchange
AGAIN = (408, 429)  # of 4xx, those that another attempt may mend


class Webhook:
    """Posts records in JSON. Redirects are not followed; what a receiver refuses for good is set aside in a file."""

    name = "webhook"
    batch = 1

    def __init__(
        self, url: str, key: bytes | None, refused: Path, say: Callable[[str], None] = lambda line: None
    ) -> None:
        """Prepare to post, and connect when there is something. Raises InputError for a URL that is none.

        Args:
            url: http or https, without a user. Messages tell its host alone, since its path may be a secret.
            key: of X-Signature; None: there is none.
            refused: JSON lines of the verdicts that the receiver refuses.
            say: prints a line, for a person, when it refuses one with a status for the first time.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise InputError("--webhook: is not a URL") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.fragment:
            raise InputError("--webhook: give http:// or https://HOST/PATH, without a user")
        if not url.isascii() or not url.isprintable() or " " in url:
            raise InputError("--webhook: a URL has ASCII characters alone, and no space")
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._host = parts.hostname
        secure = parts.scheme == "https"
        self._connection = (
            http.client.HTTPSConnection(self._host, port, timeout=WAIT, context=ssl.create_default_context())
            if secure
            else http.client.HTTPConnection(self._host, port, timeout=WAIT)
        )
        self._key = key
        self._refused = Refusals(refused, f"webhook at {self._host}", say)

    def deliver(self, verdicts: Sequence[str]) -> None:
        """Post records. Raises Unreachable if one has to be posted again."""
        for record in verdicts:
            status = self._posted(record)
            if status in AGAIN or not 200 <= status < 500:  # below 200: it has not answered yet
                raise Unreachable(f"webhook at {self._host}: answers {status}")
            if not 200 <= status < 300:
                self._refused.keep(record, status)

    def close(self) -> None:
        """Close the connection and the file."""
        self._connection.close()
        self._refused.close()

    def _posted(self, record: str) -> int:
        """Return the status of an answer; one that was idle may have been closed, so it is tried again at once."""
        body = json.dumps(stamped(record, self.name)).encode()
        was_open = self._connection.sock is not None
        try:
            return self._exchanged(body)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            if was_open:
                return self._posted(record)
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise Unreachable(f"webhook at {self._host}: {reason}") from error

    def _exchanged(self, body: bytes) -> int:
        headers = {"Content-Type": "application/json", "User-Agent": "spade-index"}
        if self._key is not None:
            headers["X-Signature"] = "sha256=" + hmac.new(self._key, body, "sha256").hexdigest()
        if self._connection.sock is None:
            self._connection.connect()
        timer = threading.Timer(WHOLE, _end, [self._connection.sock])  # of one that answers a byte at a time
        timer.daemon = True
        timer.start()
        try:
            self._connection.request("POST", self._target, body, headers)
            answer = self._connection.getresponse()
            if answer.length != 0 or answer.status < 200:  # not read: it says nothing that is used, and may have no end
                self._connection.close()
            else:
                answer.read()
            return answer.status
        finally:
            timer.cancel()


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def read_key(path: Path | None) -> bytes | None:
    """Return the key of signatures, of a file that others cannot read, or of the environment. Raises InputError."""
    found = read_secret(path, VARIABLE)
    if found is None:
        return None
    key, place = found
    if not SHORTEST <= len(key) <= LARGEST:
        raise InputError(f"{place}: a key has {SHORTEST} to {LARGEST} bytes")
    return key
