"""An HTTP/1.1 client with which a test decides on every byte."""

import json
import socket
from typing import Any

from .waiting import PATIENCE


class Connection:
    """A raw HTTP/1.1 client. Use as a context manager."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, as a client that disconnects."""
        self._file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes unchanged."""
        self.socket.sendall(data)

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> "Answer":
        """Send a whole request and read its answer."""
        self.send(self.head(method, path, **{"Content_Length": str(len(body))} | headers) + body)
        return self.answer(method)

    def head(self, method: str, path: str, **headers: str) -> bytes:
        """Return the head of a request; in header names, _ stands for -."""
        lines = [f"{method} {path} HTTP/1.1", *([] if "Host" in headers else [f"Host: 127.0.0.1:{self.port}"])]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def answer(self, method: str = "GET") -> "Answer":
        """Read the next answer. Fails if the connection is closed before its end."""
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
        """Return whether the service closes the connection in time, whatever it sends first."""
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
    """An answer that a raw connection has read."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status_code = status
        self.headers = headers
        self.content = body

    def json(self) -> Any:
        """Parse the body."""
        return json.loads(self.content)
