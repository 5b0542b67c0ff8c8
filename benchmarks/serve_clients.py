"""Clients for a load test: bare HTTP/1.1 on asyncio's streams, so that they take little CPU time from the service."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

TIMEOUT_S = 120.0  # after which a request counts as lost


@dataclass(frozen=True)
class Reply:
    """The answer to a request."""

    status: int  # 0: no answer
    seconds: float
    retry_after: bool
    body: bytes

    def json(self) -> Any:
        """Return the parsed body."""
        return json.loads(self.body)


class Connection:
    """A connection that is kept open between requests."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes) -> Reply:
        """Send an image."""
        return await self._request("POST", path, body)

    async def get(self, path: str) -> Reply:
        """Read a resource."""
        return await self._request("GET", path)

    async def _request(self, method: str, path: str, body: bytes = b"") -> Reply:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                status, headers, answer = await self._exchange(method, path, body)
        except (OSError, EOFError, TimeoutError, ValueError):
            self.close()
            return Reply(0, time.perf_counter() - started, False, b"")
        return Reply(status, time.perf_counter() - started, "retry-after" in headers, answer)

    async def _exchange(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send a request; return status, headers and body of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n"
        if body:
            head += f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}\r\n".encode() + body)
        await writer.drain()
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
        answer = await reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("connection") == "close":
            self.close()
        return int(first.split()[1]), headers, answer

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def closed_loop(port: int, path: str, bodies: Sequence[bytes], clients: int) -> tuple[float, list[Reply]]:
    """Run clients that each send the next body once they have their answer; return the total seconds and all replies.

    Replies are in the order of `bodies`.
    """
    waiting = list(enumerate(bodies))[::-1]
    replies: dict[int, Reply] = {}

    async def client() -> None:
        connection = Connection(port)
        while waiting:
            number, body = waiting.pop()
            replies[number] = await connection.post(path, body)
        connection.close()

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - started, [replies[number] for number in range(len(bodies))]


async def open_loop(port: int, path: str, bodies: Sequence[bytes], rate: float) -> list[Reply]:
    """Send `rate` bodies per second, each on its own connection, whether or not earlier ones are answered."""

    async def client(number: int, body: bytes) -> Reply:
        await asyncio.sleep(number / rate)
        connection = Connection(port)
        reply = await connection.post(path, body)
        connection.close()
        return reply

    return list(await asyncio.gather(*(client(number, body) for number, body in enumerate(bodies))))
