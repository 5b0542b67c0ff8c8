"""Limits of request bodies: how large one may be, how slowly it may come, and how much all of them may hold."""

import asyncio
import time

from starlette.types import Message, Receive

from .exchange import Exchange
from .metrics import Metrics
from .problems import ClientGone, Problem
from .settings import ServeSettings


class HeldBodies:
    """Counts the bytes of the bodies that are in memory."""

    def __init__(self, settings: ServeSettings, metrics: Metrics) -> None:
        self._most = settings.held_bytes
        self._metrics = metrics
        self.held = 0

    def hold(self, size: int) -> None:
        """Count more bytes. Raises Problem (503) if that is too much for all requests together."""
        if self.held + size > self._most:
            self._metrics.refused.labels("bodies").inc()
            raise Problem(503, "too many images are being received", retry_after=1)
        self.held += size

    def release(self, size: int) -> None:
        """Stop counting bytes, of a request that has been answered."""
        self.held -= size


class Body:
    """Receives the body of one request, within the limits.

    The route says by `streams_body` (see `access`) whether it writes the body to the disk as it comes.
    """

    def __init__(self, exchange: Exchange, receive: Receive, settings: ServeSettings, bodies: HeldBodies) -> None:
        self.held = 0  # bytes in memory
        self._exchange = exchange
        self._receive = receive
        self._settings = settings
        self._bodies = bodies
        self._size = 0
        self._complete = False

    async def receive(self) -> Message:
        """Return the next part. Raises Problem (408, 413, 503), and ClientGone."""
        if self._complete:  # the handler waits for the client to disconnect
            return await self._receive()
        route = self._exchange.scope.get("route")
        streams = getattr(route, "streams_body", False)
        most = self._settings.add_bytes if streams else self._settings.body_bytes
        if getattr(route, "names_images", False):
            most = self._settings.ids_bytes
        announced = int(self._exchange.headers.get("content-length", 0))  # a number: the protocol has checked it
        if announced > most:
            raise _too_large(most)
        try:
            message = await asyncio.wait_for(self._receive(), self._patience())
        except TimeoutError:
            raise Problem(408, "the body comes too slowly, or not at all") from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        size = len(message.get("body", b""))
        self._size += size
        if self._size > most:
            raise _too_large(most)
        if not streams:
            self._bodies.hold(size)
            self.held += size
        self._complete = not message.get("more_body", False)
        return message

    def _patience(self) -> float:
        """Return the seconds to wait for the next part. A body that comes at a trickle has an end, too."""
        settings = self._settings
        due = self._exchange.begun + settings.body_seconds + self._size / settings.body_rate
        return max(0.0, min(settings.body_seconds, due - time.perf_counter()))


def _too_large(most: int) -> Problem:
    return Problem(413, f"the body is over the limit of {most:,} bytes")
