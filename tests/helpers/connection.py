"""An HTTP/1.1 client with which a test decides on every byte."""

import json
import socket
from typing import Any

from .waiting import PATIENCE


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
