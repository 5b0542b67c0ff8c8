"""A receiver of webhooks."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver(ThreadingHTTPServer):
    """Notes what is posted, and answers the statuses that it is given, then 204."""

    daemon_threads = True

    def __init__(self, statuses: list[int], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.statuses = statuses
        self.got: list[tuple[str, dict[str, str], bytes]] = []


class Handler(BaseHTTPRequestHandler):
    """Answers a post."""

    protocol_version = "HTTP/1.1"
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
