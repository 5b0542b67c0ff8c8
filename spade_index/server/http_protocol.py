"""Uvicorn's HTTP/1.1 with limits: of connections, of how long a head may take and an answer may stay unread.

If a request is answered with an error before its body is complete, the rest of the body is discarded for as long as a
head may take: a client that is still sending would not see the answer if the connection were closed at once.
"""

import asyncio
import fcntl
import secrets
import socket
import struct
import sys
import termios
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from .connections import Connections, now
from .exchange import HEADERS
from .framing import BoundedConnection
from .limits import REST_BYTES
from .metrics import Metrics
from .problems import Problem, problem_response
from .settings import ServeSettings


class Patient(H11Protocol):
    """Closes a connection whose next head does not come in time, or whose answers stay unread.

    Uvicorn itself closes idle connections that were used before (`timeout_keep_alive`).
    """

    conn: BoundedConnection

    limits: ServeSettings
    admitted: Connections

    idle_since: float | None = None
    unread_since: float | None = None
    _waiting: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None
    _dropped = 0  # bytes since the last answer that were no request

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = BoundedConnection()

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a head, or answer at once (503) that there are too many connections."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so that `pause_writing` is called whenever something waits
        self.idle_since = now()
        if self.admitted.add(self):
            self._wait()
        else:
            self._answer(Problem(503, "there are too many connections", retry_after=1))

    def data_received(self, data: bytes) -> None:
        """Take bytes; what belongs to no request does not end the waiting, and is limited."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._in_request():
            self.idle_since = None
            self._dropped = 0
            self._stop_waiting()
        else:
            self._wait()
            self._dropped += len(data)
            if self._dropped > REST_BYTES:
                self.transport.close()

    def on_response_complete(self) -> None:
        """Note that the connection is idle from now on, unless the next request has come."""
        self.idle_since = now()
        super().on_response_complete()
        if self._in_request():  # the next one had come
            self.idle_since = None

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the connection and its clocks."""
        self.admitted.remove(self)
        self._stop_waiting()
        self._stop_reading()
        super().connection_lost(error)

    def pause_writing(self) -> None:
        """Note that the client has not read all, and expect that it does."""
        super().pause_writing()
        self.unread_since = now()
        self._expect_reading()
        self.admitted.make_room()

    def resume_writing(self) -> None:
        """Note that the client has read all."""
        self._stop_reading()
        super().resume_writing()

    def unsent(self) -> int:
        """Return the bytes that wait in this process for the client to read."""
        return int(self.transport.get_write_buffer_size())

    def unread(self) -> int:
        """Return the bytes that the client's system has not taken, those included that are in the system's buffers."""
        with suppress(OSError, ValueError):  # it is closed by now
            opened = self.transport.get_extra_info("socket")
            return self.unsent() + int.from_bytes(fcntl.ioctl(opened, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        return self.unsent()

    def abort(self) -> None:
        """Close the connection at once; what the client has not read is dropped."""
        opened = self.transport.get_extra_info("socket")
        if opened is not None:  # so that the system keeps nothing for the client to read, either
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer a request that is not HTTP with problem details, unless an answer has begun."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._answer(Problem(self.conn.refused_status, self.conn.refused or "this is not an HTTP/1.1 request"))
        if self.cycle is not None:  # its answer can no longer be sent
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _answer(self, problem: Problem) -> None:
        """Answer without the application, and close the connection."""
        id = secrets.token_hex(8)
        answer = problem_response(problem, "", id)
        headers = [*answer.raw_headers, (b"connection", b"close"), (b"x-request-id", id.encode())]
        headers += [(name.encode(), value.encode()) for name, value in HEADERS.items()]
        reason = HTTPStatus(problem.status_code).phrase.encode()
        body = [] if self.conn.head_only else [h11.Data(data=bytes(answer.body))]
        for event in (
            h11.Response(status_code=problem.status_code, headers=headers, reason=reason),
            *body,
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _in_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        if self._waiting is None:
            self._waiting = self.loop.call_later(self.limits.head_seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        self._waiting = None
        if not self._in_request() and not self.transport.is_closing():
            self.transport.close()

    def _expect_reading(self) -> None:
        self._stop_reading(still=True)
        self._reading = self.loop.call_later(self.limits.write_seconds, self._require_read, self.unread())

    def _require_read(self, before: int) -> None:
        due = int(self.limits.write_rate * self.limits.write_seconds)  # bytes that a client reads in that time at least
        if before - self.unread() < min(before, due):
            self.admitted.give_up(self)
        else:
            self._expect_reading()

    def _stop_reading(self, still: bool = False) -> None:
        if not still:
            self.unread_since = None
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None


def protocol_of(settings: ServeSettings, connections: Connections) -> type[H11Protocol]:
    """Return the protocol with these limits, for Uvicorn, which makes one for each connection."""
    return type("LimitedPatient", (Patient,), {"limits": settings, "admitted": connections})


def protocol_options(settings: ServeSettings, metrics: Metrics) -> dict[str, Any]:
    """Return Uvicorn's options for a service of these settings, except for its address and its log."""
    return {
        "http": protocol_of(settings, Connections(settings, metrics)),
        "ws": "none",
        "access_log": False,
        "server_header": False,
        "date_header": True,
        "proxy_headers": False,
        "timeout_keep_alive": settings.keep_seconds,
        "timeout_graceful_shutdown": int(settings.request_seconds) + 1,
    }
