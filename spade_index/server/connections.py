"""Limits of connections: how many there may be, and how long a client may leave its answers unread."""

import resource
import time
from typing import Protocol

from .metrics import Metrics
from .settings import ServeSettings

SPARE = 2  # file descriptors for each connection, of which the rest are for files


class Connection(Protocol):
    """What the limits ask of a connection."""

    idle_since: float | None  # None while a request is served
    unread_since: float | None  # None while nothing waits to be sent

    def unsent(self) -> int:
        """Return the bytes that wait for the client to read."""

    def abort(self) -> None:
        """Close the connection; what was not sent is dropped."""


class Connections:
    """All connections of a service."""

    def __init__(self, settings: ServeSettings, metrics: Metrics) -> None:
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        limited = files != resource.RLIM_INFINITY
        self._most = min(settings.connections, max(8, files // SPARE)) if limited else settings.connections
        self._most_unsent = settings.unsent_bytes
        self._metrics = metrics
        self._open: set[Connection] = set()
        metrics.connections.set_function(lambda: len(self._open))
        metrics.unsent.set_function(self.unsent)

    def add(self, connection: Connection) -> bool:
        """Admit a connection; where there are too many, the one that was idle longest is closed for it.

        Returns False if none is idle.
        """
        if len(self._open) >= self._most:
            self._metrics.refused.labels("connections").inc()
            idle = [other for other in self._open if other.idle_since is not None and not other.unsent()]
            if not idle:
                return False
            longest = min(idle, key=lambda other: other.idle_since or 0.0)
            self.remove(longest)
            longest.abort()
        self._open.add(connection)
        return True

    def remove(self, connection: Connection) -> None:
        """Forget a connection that was closed."""
        self._open.discard(connection)

    def unsent(self) -> int:
        """Return the bytes of answers that clients have not read yet."""
        return sum(connection.unsent() for connection in self._open)

    def make_room(self) -> None:
        """Close connections whose clients have not read for longest, while all unread answers take too much."""
        while self.unsent() > self._most_unsent:
            unread = [connection for connection in self._open if connection.unread_since is not None]
            if not unread:
                return
            self.give_up(min(unread, key=lambda connection: connection.unread_since or 0.0))

    def give_up(self, connection: Connection) -> None:
        """Close a connection whose client does not read."""
        self._metrics.refused.labels("unread").inc()
        self.remove(connection)
        connection.abort()


def now() -> float:
    """Return the time that `idle_since` and `unread_since` are in."""
    return time.monotonic()
