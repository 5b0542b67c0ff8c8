"""A receiver of webhooks."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver(ThreadingHTTPServer):
    """Notes what is posted, and answers the statuses that it is given, then 204."""

    daemon_threads = True

    def __init__(self, statuses: list[int], port: int = 0) -> None:
        self.statuses = statuses
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self._open: list[socket.socket] = []
        super().__init__(("127.0.0.1", port), Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection in a thread of its own, and remember it."""
        self._open.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: clients are killed."""

    def server_close(self) -> None:
        """Close the connections as well, which would be answered on."""
        super().server_close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    """Answers a post."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a body comes with its head, and not 40 ms later
    server: Receiver

    def do_POST(self) -> None:
        """Note the request."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, dict(self.headers), body))
        status = self.server.statuses.pop(0) if self.server.statuses else 204
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        if status != 204:
            self.send_header("Content-Length", "2")
        self.end_headers()
        if status != 204:
            self.wfile.write(b"no")

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""


@contextmanager
def receiver(*statuses: int, port: int = 0) -> Iterator[Receiver]:
    """A receiver that listens on loopback."""
    with Receiver(list(statuses), port) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()
