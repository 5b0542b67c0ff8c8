"""Uvicorn's HTTP/1.1 with a limit on how long a request's head may take, and errors like all others.

If a request is answered with an error before its body is complete, the rest of the body is discarded for as long as a
head may take: a client that is still sending would not see the answer if the connection were closed at once.
"""

import asyncio
import secrets
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from .exchange import HEADERS
from .problems import Problem, problem_response
from .settings import ServeSettings

HEAD_BYTES = 16 << 10  # of a request's head


def patient_for(seconds: float) -> type[H11Protocol]:
    """Return a protocol that closes connections whose next head is not complete within a number of seconds.

    Uvicorn itself closes idle connections that were used before (`timeout_keep_alive`).
    """

    class Patient(H11Protocol):
        _waiting: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._in_request():
                self._stop_waiting()
            else:
                self._wait()

        def connection_lost(self, error: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(error)

        def send_400_response(self, msg: str) -> None:
            """Answer a request that is not HTTP with problem details, unless an answer has begun."""
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                id = secrets.token_hex(8)
                answer = problem_response(Problem(400, "this is not an HTTP/1.1 request"), "", id)
                headers = [*answer.raw_headers, (b"connection", b"close"), (b"x-request-id", id.encode())]
                headers += [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                for event in (
                    h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                    h11.Data(data=bytes(answer.body)),
                    h11.EndOfMessage(),
                ):
                    self.transport.write(self.conn.send(event))
            if self.cycle is not None:  # its answer can no longer be sent
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            self.transport.close()

        def _in_request(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _wait(self) -> None:
            if self._waiting is None:
                self._waiting = self.loop.call_later(seconds, self._give_up)

        def _stop_waiting(self) -> None:
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None

        def _give_up(self) -> None:
            self._waiting = None
            if not self._in_request() and not self.transport.is_closing():
                self.transport.close()

    return Patient


def protocol_options(settings: ServeSettings) -> dict[str, Any]:
    """Return Uvicorn's options for a service of these settings, except for its address and its log."""
    return {
        "http": patient_for(settings.head_seconds),
        "ws": "none",
        "access_log": False,
        "server_header": False,
        "date_header": True,
        "proxy_headers": False,
        "timeout_graceful_shutdown": int(settings.request_seconds) + 1,
        "h11_max_incomplete_event_size": HEAD_BYTES,
    }
