"""Clients for a load test: bare HTTP/1.1 on asyncio's streams, so that they take little of what the service needs."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SECONDS = 120.0  # that a request may take before it counts as lost


@dataclass(frozen=True)
class Reply:
    """What came of a request."""

    status: int  # 0: no answer
    seconds: float
    retry_after: bool
    body: bytes

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class Connection:
    """A connection that is kept."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes) -> Reply:
        """Send an image."""
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nContent-Type: application/octet-stream\r\n"
        return await self._ask(head + f"Content-Length: {len(body)}\r\n\r\n", body)

    async def get(self, path: str) -> Reply:
        """Ask for something."""
        return await self._ask(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n\r\n", b"")

    async def _ask(self, head: str, body: bytes) -> Reply:
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(SECONDS):
                if self._streams is None:
                    self._streams = await asyncio.open_connection("127.0.0.1", self._port)
                reader, writer = self._streams
                writer.write(head.encode() + body)
                await writer.drain()
                status, headers = await _head(reader)
                answer = await reader.readexactly(int(headers.get("content-length", 0)))
                if headers.get("connection") == "close":
                    await self.close()
        except (OSError, EOFError, TimeoutError, ValueError):
            await self.close()
            return Reply(0, time.perf_counter() - begun, False, b"")
        return Reply(status, time.perf_counter() - begun, "retry-after" in headers, answer)

    async def close(self) -> None:
        """End it."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def closed_loop(port: int, path: str, bodies: Sequence[bytes], clients: int) -> tuple[float, list[Reply]]:
    """So many clients that each send the next body when they have their answer; seconds in all, and all answers."""
    waiting = list(enumerate(bodies))[::-1]
    replies: dict[int, Reply] = {}

    async def client() -> None:
        connection = Connection(port)
        while waiting:
            number, body = waiting.pop()
            replies[number] = await connection.post(path, body)
        await connection.close()

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - begun, [replies[number] for number in range(len(bodies))]


async def open_loop(port: int, path: str, bodies: Sequence[bytes], rate: float) -> list[Reply]:
    """Bodies that arrive at so many a second, each on a connection of its own, whether or not others are answered."""

    async def client(number: int, body: bytes) -> Reply:
        await asyncio.sleep(number / rate)
        connection = Connection(port)
        reply = await connection.post(path, body)
        await connection.close()
        return reply

    return list(await asyncio.gather(*(client(number, body) for number, body in enumerate(bodies))))


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    return int(lines[0].split()[1]), headers
