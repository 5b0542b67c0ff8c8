"""S3 as moto serves it, on loopback and in a process of its own, which counts what is asked of it.

moto checks what it stores and answers, but no signatures unless it is told to, and is slow: a request takes it some
milliseconds of a core. `wait` adds those that a request takes on the way to a real store.
"""

import json
import multiprocessing
import os
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any

from spade_index.benchmarks.processes import Failed

BUCKET = "parts"
KEY, SECRET = "AKIDOFTHETESTS", "a-secret-that-nothing-may-print"
COUNTS = "/counts"


@dataclass(frozen=True)
class Counts:
    """What was asked of a server since it was started."""

    requests: int = 0
    sent: int = 0  # bytes of bodies of its answers
    received: int = 0  # bytes of bodies of requests

    def __sub__(self, before: "Counts") -> "Counts":
        return Counts(self.requests - before.requests, self.sent - before.sent, self.received - before.received)


@dataclass(frozen=True)
class MotoServer:
    """A server that runs, with a bucket."""

    url: str

    def environment(self) -> dict[str, str]:
        """Return the variables by which clients find it."""
        names = {"AWS_ENDPOINT_URL": self.url, "AWS_REGION": "us-east-1"}
        return {**names, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}

    @contextmanager
    def named(self) -> Iterator[None]:
        """Name it in this process's environment until the block ends."""
        before = {name: os.environ.get(name) for name in self.environment()}
        os.environ |= self.environment()
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def counts(self) -> Counts:
        """Return what was asked of it; this is not counted."""
        return Counts(**json.loads(self.ask("GET", COUNTS)))

    def ask(self, method: str, path: str, data: bytes | None = None, headers: Mapping[str, str] = {}) -> bytes:
        """Make a request without a signature; return the answer's body. Raises urllib.error.URLError."""
        request = urllib.request.Request(f"{self.url}{path}", data, dict(headers), method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            body: bytes = answer.read()
        return body


@contextmanager
def moto_server(wait: float = 0.0) -> Iterator[MotoServer]:
    """Run a server with a bucket until the block ends; each of its answers waits for some seconds."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(sender, wait), daemon=True)
    process.start()
    sender.close()
    try:
        server = MotoServer(f"http://127.0.0.1:{_received(receiver)}")
        server.ask("PUT", f"/{BUCKET}")
        yield server
    finally:
        process.kill()
        process.join()


def _received(receiver: Connection) -> int:
    try:
        port: int = receiver.recv()
    except EOFError:
        raise Failed("moto did not start, for the reason above: it needs pip install 'spade_index[bench]'") from None
    return port


def _serve(port: Connection, wait: float) -> None:
    """Serve until the process ends, and tell at which port."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    class Quiet(MotoRequestHandler):
        disable_nagle_algorithm = True  # a body comes with its head, and not 40 ms later

        def log(self, type: str, message: str, *arguments: Any) -> None:
            pass

    app = _Counting(DomainDispatcherApplication(create_backend_app), wait)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    port.send(server.port)
    port.close()
    server.serve_forever()


class _Counting:
    """An application of WSGI that counts requests and bytes to and from another."""

    def __init__(self, app: Callable[..., Iterable[bytes]], wait: float) -> None:
        self._app = app
        self._wait = wait
        self._lock = Lock()
        self._counts = Counts()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == COUNTS:
            start_response("200 OK", [])
            return [json.dumps(vars(self._counts)).encode()]
        time.sleep(self._wait)
        pieces = list(self._app(environ, start_response))
        sent, received = sum(map(len, pieces)), int(environ.get("CONTENT_LENGTH") or 0)
        with self._lock:
            found = self._counts
            self._counts = Counts(found.requests + 1, found.sent + sent, found.received + received)
        return pieces
