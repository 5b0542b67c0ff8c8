"""A server that has the images of tasks, as Label Studio has them."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .waiting import PATIENCE

LEGACY, PERSONAL, ACCESS = "legacy-0123456789", "header.personal.signature", "header.access.signature"


class Files(ThreadingHTTPServer):
    """Serves files to those who have a token, and notes what is asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.files: dict[str, bytes] = {}  # by path and query
        self.asked: list[str] = []
        self.access: bytes | None = None  # what a personal access token gets in place of another one
        self.redirects: dict[str, str] = {}
        self.pause = 0.0  # seconds between two bytes
        self.now = self.most = 0  # requests at a time
        self.awaited = 0  # requests at a time, until which none is answered
        self.changed = threading.Condition()


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Files

    def do_GET(self) -> None:
        """Send a file."""
        with self.server.changed:
            self.server.asked.append(self.path)
            self.server.now += 1
            self.server.most = max(self.server.most, self.server.now)
            self.server.changed.notify_all()
            self.server.changed.wait_for(lambda: self.server.most >= self.server.awaited, PATIENCE)
        try:
            self._get()
        finally:
            with self.server.changed:
                self.server.now -= 1

    def _get(self) -> None:
        if self.path in self.server.redirects:
            self.send_response(302)
            self.send_header("Location", self.server.redirects[self.path])
            self.end_headers()
        elif self.headers.get("Authorization") not in (f"Token {LEGACY}", f"Bearer {ACCESS}"):
            self.send_error(401)
        elif self.path not in self.server.files:
            self.send_error(404)
        else:
            data = self.server.files[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.server.pause:
                for byte in data:
                    time.sleep(self.server.pause)
                    self.wfile.write(bytes([byte]))
            else:
                self.wfile.write(data)

    def do_POST(self) -> None:
        """Answer a personal access token with an access token."""
        self.server.asked.append(self.path)
        given: Any = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = self.path == "/api/token/refresh" and given == {"refresh": PERSONAL}
        body = json.dumps({"access": ACCESS} if known else {"detail": "no"}).encode()
        body = self.server.access or body
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""


@contextmanager
def task_files() -> Iterator[Files]:
    """A server of task files that listens on loopback."""
    with Files() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()
