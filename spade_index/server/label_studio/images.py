"""Get the images of tasks: from the Label Studio that the operator names, or from the task itself."""

import base64
import http.client
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from spade_index.errors import InputError
from spade_index.exact import read_json

from ..decoding import Upload
from ..forms import file_name
from ..limits import FETCH_SECONDS
from .address import OPTION, Address, name_of

PIECE = 1 << 20  # bytes that are read at a time
ACCESS_SECONDS = 120.0  # that an access token is used; Label Studio's are valid for five minutes
ACCESS_BYTES = 64 << 10  # of the answer that has one
ACCESS = re.compile("[!-~]+")  # what a header may have
REFUSED = {401: "refuses the token", 403: "refuses the token", 404: "has no such file"}


class TaskImages:
    """Gets image files, each within limits of bytes and time."""

    def __init__(self, address: Address | None, most_bytes: int) -> None:
        self._address = address
        self._most = most_bytes
        self._access: tuple[str, float] | None = None  # of a personal access token, and when it came

    def get(self, reference: str) -> Upload:
        """Return the image of a task, which names it by a `data:` URI, a path or a URL. Raises InputError."""
        if reference[:5].lower() == "data:":
            return self._held(reference)
        if self._address is None:
            raise InputError(f"the image is in Label Studio: give its address to the service ({OPTION})")
        target = self._address.target(reference)
        authorization = self._authorization(self._address)
        return Upload(file_name(name_of(reference)), self._asked(self._address, target, authorization, self._most))

    def _held(self, reference: str) -> Upload:
        head, _, data = reference.partition(",")
        kind, *options = head[5:].split(";")
        try:
            if "base64" not in options:
                raise ValueError
            return Upload(file_name(kind.replace("/", ".")), base64.b64decode(data, validate=True))
        except ValueError as error:
            raise InputError("a `data:` URI has an image in base64") from error

    def _authorization(self, address: Address) -> str | None:
        """Return the header that a token asks with. A personal access token is good for short ones only."""
        token = address.token
        if token is None or token.count(".") != 2:
            return None if token is None else f"Token {token}"
        if self._access is None or time.monotonic() - self._access[1] > ACCESS_SECONDS:
            body = json.dumps({"refresh": token}).encode()
            answer = self._asked(address, f"{address.base}/api/token/refresh", None, ACCESS_BYTES, body)
            try:
                access = read_json(answer.decode())["access"]
                if not isinstance(access, str) or not ACCESS.fullmatch(access):
                    raise ValueError
                self._access = access, time.monotonic()
            except (KeyError, TypeError, ValueError) as error:
                raise InputError("Label Studio answers the personal access token with no other one") from error
        return f"Bearer {self._access[0]}"

    def _asked(
        self, address: Address, target: str, authorization: str | None, most: int, body: bytes | None = None
    ) -> bytes:
        """Return the body of an answer, of `most` bytes at most. Redirects are not followed. Raises InputError."""
        headers = {"User-Agent": "spade-index"}
        if authorization is not None:
            headers["Authorization"] = authorization
        if body is not None:
            headers["Content-Type"] = "application/json"
        until = time.monotonic() + FETCH_SECONDS
        try:
            with _connected(address, until) as connection:
                connection.request("GET" if body is None else "POST", target, body, headers)
                answer = connection.getresponse()
                if answer.status != 200:
                    reason = REFUSED.get(answer.status, f"answers {answer.status}")
                    raise InputError(f"Label Studio at {address.host} {reason}")
                data = bytearray()
                while piece := answer.read(PIECE):
                    data += piece
                    if len(data) > most:
                        raise InputError(f"the image is larger than the limit of {most:,} bytes")
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise InputError(f"Label Studio at {address.host} cannot be asked ({reason})") from error
        if answer.length or time.monotonic() >= until:  # it ended early
            raise InputError(f"Label Studio at {address.host} did not send all within {FETCH_SECONDS:g} seconds")
        return bytes(data)


@contextmanager
def _connected(address: Address, until: float) -> Iterator[http.client.HTTPConnection]:
    """Yield a connection that ends at a time (time.monotonic), however slowly something still comes. Raises OSError."""
    connection = (
        http.client.HTTPSConnection(
            address.host, address.port, timeout=FETCH_SECONDS, context=ssl.create_default_context()
        )
        if address.secure
        else http.client.HTTPConnection(address.host, address.port, timeout=FETCH_SECONDS)
    )
    connection.connect()
    timer = threading.Timer(max(0.0, until - time.monotonic()), _end, [connection.sock])
    timer.daemon = True
    timer.start()
    try:
        yield connection
    finally:
        timer.cancel()
        connection.close()


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
