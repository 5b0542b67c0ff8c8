"""Turns of clients: what waits is taken from each client in turn, so many requests of one hold up no other's."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from threading import Lock
from typing import Any, Generic, TypeVar

from starlette.requests import Request

from .keys import Key

T = TypeVar("T")


def client_of(request: Request) -> str:
    """Return who asks: the holder of a key, or without keys an address."""
    key: Key = request.state.key
    if key.digest:
        return key.digest.hex()
    return request.client.host if request.client else ""


class Turns(Generic[T]):
    """What waits, by client: each client's in the order in which it came."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, client: str, item: T) -> None:
        """Let an item wait."""
        self._waiting.setdefault(client, deque()).append(item)

    def take(self) -> T:
        """Take the oldest item of the client whose turn it is, which is the last to have the next."""
        client, items = self._waiting.popitem(last=False)
        item = items.popleft()
        if items:
            self._waiting[client] = items
        return item


class FairThreads:
    """Threads that work for clients in turn."""

    def __init__(self, count: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._turns: Turns[tuple[Future[Any], Callable[[], Any]]] = Turns()
        self._lock = Lock()

    def submit(self, client: str, work: Callable[[], T]) -> Future[T]:
        """Have work done when it is the client's turn. Raises RuntimeError after `stop`."""
        future: Future[T] = Future()
        with self._lock:
            self._pool.submit(self._next)  # first: it may raise
            self._turns.put(client, (future, work))
        return future

    def stop(self) -> None:
        """Cancel what waits, and wait for what is being done."""
        with self._lock:
            while self._turns:
                self._turns.take()[0].cancel()
        self._pool.shutdown(cancel_futures=True)

    def _next(self) -> None:
        with self._lock:
            if not self._turns:  # they were stopped
                return
            future, work = self._turns.take()
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)


class FairPlaces:
    """Places of limited number, which clients get in turn. For one event loop."""

    def __init__(self, count: int) -> None:
        self.free = count
        self._turns: Turns[asyncio.Future[None]] = Turns()

    @asynccontextmanager
    async def place(self, client: str) -> AsyncIterator[None]:
        """Wait for a place, and hold it in the block."""
        if self.free:
            self.free -= 1
        else:
            await self._turn(client)
        try:
            yield
        finally:
            self._pass_on()

    async def _turn(self, client: str) -> None:
        coming = asyncio.get_running_loop().create_future()
        self._turns.put(client, coming)
        try:
            await coming
        except asyncio.CancelledError:
            if not coming.cancelled():  # the place was given to one who goes
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while self._turns:
            coming = self._turns.take()
            if not coming.done():
                coming.set_result(None)
                return
        self.free += 1
