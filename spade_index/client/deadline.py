"""The end of an exchange with a service, however slowly something still comes: its connections are shut down."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakSet

import httpx

RATE = 32 << 10  # bytes a second at least that a request is sent at: the service takes no body at less
CONNECTED = (".connect_tcp.complete", ".start_tls.complete")  # events of httpcore, whose value is a stream


class Deadline:
    """Of one exchange."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.over = False


class Connections:
    """The connections of a client. They are reused, so that nothing tells which of them an exchange has."""

    def __init__(self) -> None:
        self._open: WeakSet[socket.socket] = WeakSet()
        self._lock = threading.Lock()

    @contextmanager
    def until(self, request: httpx.Request, seconds: float) -> Iterator[Deadline]:
        """Yield the deadline of an exchange: `seconds` from now, and what its body takes at RATE.

        Then all connections of the client are shut down, whose exchanges end with an httpx.RequestError, or as if the
        answer had ended.
        """
        deadline = Deadline(seconds + int(request.headers.get("Content-Length", 0)) / RATE)

        def trace(event: str, info: dict[str, Any]) -> None:
            if event.endswith(CONNECTED):
                self._note(info["return_value"].get_extra_info("socket"), deadline)

        request.extensions["trace"] = trace
        timer = threading.Timer(deadline.seconds, self._end, [deadline])
        timer.daemon = True
        timer.start()
        try:
            yield deadline
        finally:
            timer.cancel()

    def _note(self, connection: socket.socket, deadline: Deadline) -> None:
        with self._lock:
            self._open.add(connection)
            if deadline.over:
                _shut(connection)

    def _end(self, deadline: Deadline) -> None:
        with self._lock:
            deadline.over = True
            for connection in self._open:
                _shut(connection)


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):  # it is closed
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # that of TLS forgets its state, which another thread uses
