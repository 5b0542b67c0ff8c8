"""Services for tests: one in this process whose backbone can be watched and held, and one of its own to be killed."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from PIL import Image

from spade_index.features.backbone import Backbone, Features
from spade_index.gallery import Gallery
from spade_index.server.app import create_app
from spade_index.server.galleries import LoadBackbone
from spade_index.server.http_protocol import protocol_options
from spade_index.server.keys import Keys, read_keys
from spade_index.server.middleware import Limits
from spade_index.server.settings import ServeSettings

from helpers.tiny import TinyCNN

PATIENCE = 30  # seconds that anything may take before a test fails
PROGRAM = "from spade_index.cli import main; main()"


class WatchedBackbone(Backbone):
    """Counts the images that it is given, and waits before each batch while it is held."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.batches: list[int] = []
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Event()  # a batch waits, or has

    def __call__(self, pixels: np.ndarray) -> Features:
        self._come(pixels)
        return super().__call__(pixels)

    def _stored_features(self, pixels: np.ndarray) -> Features:  # of images that are added
        self._come(pixels)
        return super()._stored_features(pixels)

    def _come(self, pixels: np.ndarray) -> None:
        self.batches.append(len(pixels))
        self.entered.set()
        assert self.free.wait(PATIENCE)


class Watch:
    """What a service under test uses as its backbones."""

    def __init__(self) -> None:
        self.backbones: list[WatchedBackbone] = []
        self._held = False

    def load(self, gallery: Gallery, device: str) -> Backbone:
        """The tiny backbone that a gallery was built with."""
        name = gallery.settings.backbone
        model = TinyCNN(int(name.removeprefix("tiny-")))
        backbone = WatchedBackbone(name, model, gallery.settings.preprocessing, device="cpu", precision="float32")
        if self._held:
            backbone.free.clear()
        self.backbones.append(backbone)
        return backbone

    @property
    def images(self) -> int:
        """Images that went through a backbone so far."""
        return sum(sum(backbone.batches) for backbone in self.backbones)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nothing is computed inside."""
        self._hold(True)
        try:
            yield
        finally:
            self._hold(False)

    def wait_until_entered(self) -> None:
        """Until a batch waits in a held backbone."""
        eventually(lambda: any(b.entered.is_set() and not b.free.is_set() for b in self.backbones))

    def release(self) -> None:
        """Go on, before the end of `held`."""
        self._hold(False)

    def _hold(self, hold: bool) -> None:
        self._held = hold
        for backbone in self.backbones:
            backbone.entered.clear()
            (backbone.free.clear if hold else backbone.free.set)()


class Server:
    """A service in a thread of this process, on a free port of the loopback interface."""

    def __init__(self, root: Path, keys: str = "", load: LoadBackbone | None = None, **settings: Any) -> None:
        """`keys` are lines as in a file of API keys; `settings` are ServeSettings'."""
        self.watch = Watch()
        self.settings = ServeSettings(root=root, **{"head_seconds": 3, "batch_window": 0.002} | settings)
        known = read_keys(None, {"SPADE_INDEX_API_KEYS": keys}) if keys else Keys([])
        self.app = create_app(self.settings, known, load or self.watch.load)
        self.service = self.app.state.service
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(self.app, host="127.0.0.1", port=0, log_config=None, **protocol_options(self.settings))
        )
        self._thread = threading.Thread(target=self._uvicorn.run, daemon=True)
        self._thread.start()
        eventually(lambda: self._uvicorn.started or not self._thread.is_alive())
        self.port: int = self._uvicorn.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=PATIENCE)

    def stop(self) -> None:
        """Drain and end."""
        self.http.close()
        self._uvicorn.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def connect(self) -> "Connection":
        """A connection of its own."""
        return Connection(self.port)

    def query(self, gallery: str, data: bytes, **parameters: Any) -> dict[str, Any]:
        """The result of one image."""
        answer = self.http.post(f"/v1/galleries/{gallery}/query", content=data, params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()["results"][0]

    def wait_until_waiting(self, images: int) -> None:
        """Until so many images are decoded and wait for their turn."""
        eventually(lambda: len(self.service.engine._waiting) >= images)

    def middleware_held(self) -> int:
        """Bytes of bodies that are held."""
        layer = self.app.middleware_stack
        while not isinstance(layer, Limits):
            layer = layer.app
        return layer.bodies.held

    def metric(self, line: str) -> float:
        """The value of a figure, by its name and labels as Prometheus writes them; 0 if it was never set."""
        found = re.search(rf"^{re.escape(line)} (\S+)$", self.http.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def finished(self, job: str, *, state: str = "done", **options: Any) -> dict[str, Any]:
        """A job that has come to this state."""
        return finished(self.http, job, state=state, **options)


class Process:
    """`spade-index serve` in a process of its own, to be killed. Use as a context manager."""

    def __init__(self, root: Path, *options: str, before: str = "") -> None:
        """`before` is Python that it runs before it starts."""
        self._log = root.with_name(f"{root.name}-{time.monotonic_ns()}.log")
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    before + PROGRAM,
                    "serve",
                    str(root),
                    "--port",
                    "0",
                    "--device",
                    "cpu",
                    *options,
                ],
                stderr=log,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        try:
            eventually(lambda: self._listening() or self.process.poll() is not None, 2 * PATIENCE)
            assert self.process.poll() is None, self.log_text()
            self.port = int(self._listening()[1])
        except BaseException:
            self.process.kill()
            raise
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *exception: object) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.kill()

    def kill(self) -> None:
        """At once, with no chance to tidy up."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE)

    def terminate(self) -> None:
        """As whoever runs it would end it; returns when it has ended."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)

    def finished(self, job: str, *, state: str = "done", **options: Any) -> dict[str, Any]:
        """A job that has come to this state."""
        return finished(self.http, job, state=state, **options)

    def log_text(self) -> str:
        """What it has written to standard error."""
        return self._log.read_text()

    def log(self) -> list[dict[str, Any]]:
        """The same, as the structured lines that it is."""
        return [json.loads(line) for line in self.log_text().splitlines()]

    def _listening(self) -> Any:
        return re.search(r"listening on http://127\.0\.0\.1:(\d+)", self.log_text())


class Connection:
    """A hand-written HTTP/1.1 client, so that tests decide over every byte. Use as a context manager."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """As a client that goes away."""
        self._file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Bytes as they are."""
        self.socket.sendall(data)

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> "Answer":
        """Send a whole request and read its answer."""
        self.send(self.head(method, path, **{"Content_Length": str(len(body))} | headers) + body)
        return self.answer(method)

    def head(self, method: str, path: str, **headers: str) -> bytes:
        """A request's head; in names of headers _ stands for -."""
        lines = [f"{method} {path} HTTP/1.1", *([] if "Host" in headers else [f"Host: 127.0.0.1:{self.port}"])]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def answer(self, method: str = "GET") -> "Answer":
        """The next answer; fails if the connection is closed before it is whole."""
        while True:
            status = int(self._line().split(b" ")[1])
            headers = {}
            while line := self._line():
                name, _, value = line.partition(b":")
                headers[name.decode().lower()] = value.strip().decode()
            if status >= 200:
                break
        length = 0 if method == "HEAD" or status == 204 else int(headers["content-length"])
        body = self._file.read(length)
        assert len(body) == length, "the connection was closed within an answer"
        return Answer(status, headers, body)

    def is_closed(self, within: float = PATIENCE) -> bool:
        """Whether the service closes the connection, whatever else it sends before."""
        self.socket.settimeout(within)
        try:
            while self._file.read(1 << 16):
                pass
            return True
        except TimeoutError:
            return False
        except ConnectionError:
            return True

    def _line(self) -> bytes:
        line = self._file.readline()
        assert line.endswith(b"\r\n"), f"the connection was closed instead of an answer: {line!r}"
        return line.removesuffix(b"\r\n")


class Answer:
    """What a hand-written client was answered."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status_code = status
        self.headers = headers
        self.content = body

    def json(self) -> Any:
        """The body."""
        return json.loads(self.content)


def eventually(true: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Wait until something is true; fail if it is not in time."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)


def finished(http: httpx.Client, job: str, *, state: str, **options: Any) -> dict[str, Any]:
    """A job that has come to a state; fails if it comes to rest in another."""
    told: dict[str, Any] = {}

    def ended() -> bool:
        told.update(http.get(f"/v1/jobs/{job}", **options).json())
        resting = told["state"] in ("done", "failed", "cancelled", "interrupted")
        assert not resting or told["state"] == state, told
        return bool(told["state"] == state)

    eventually(ended)
    return told


def problem(answer: Any, status: int, field: str | None = None) -> dict[str, Any]:
    """The problem details of an answer that must be one, and name this field."""
    assert answer.status_code == status, answer.content
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    assert told["status"] == status
    assert told["title"]
    assert told["detail"]
    assert "\n" not in told["detail"]
    assert told["request_id"] == answer.headers["x-request-id"]
    if field is not None:
        assert field in [error["field"] for error in told["errors"]], told
    return told


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """An image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def odd() -> bytes:
    """An image file unlike all of the galleries', 40x36 pixels."""
    stripes = np.arange(40) // 2 % 2 * np.full((36, 1), 255)
    return encoded(Image.fromarray(stripes.astype(np.uint8)).convert("RGB"))


def parts(*files: tuple[str, bytes], field: str = "images") -> list[tuple[str, tuple[str, bytes, str]]]:
    """Files of a form, as httpx takes them."""
    return [(field, (name, data, "application/octet-stream")) for name, data in files]
