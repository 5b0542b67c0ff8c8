"""The Python client before a program that sends something all the time, and comes to no end."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import repeat

import pytest

from spade_index.client import Client
from spade_index.errors import Unavailable

PAUSE = 0.005  # seconds between two bytes
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
ENDLESS = {
    "a head": (b"HTTP/1.1 200 OK\r\nX-", repeat(b"a")),
    "heads that are no answer": (b"", repeat(b"HTTP/1.1 100 Continue\r\n\r\n")),
    "a body of a length": (HEAD + b"Content-Length: 1000000\r\n\r\n", repeat(b" ")),
    "a body in chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", repeat(b"1\r\n \r\n")),
    "a body that ends with the connection": (HEAD + b"Connection: close\r\n\r\n{}", repeat(b" ")),
}


class Drip:
    """A program that answers as it should, once for each of `sound`, and else without an end."""

    def __init__(self, begin: bytes, more: Iterator[bytes], sound: int = 0) -> None:
        self._begin, self._more, self._sound = begin, more, sound
        self._over = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.connections = 0
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> "Drip":
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._server.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                self.connections += 1
                self._threads.append(threading.Thread(target=self._answer, args=(connection,)))
                self._threads[-1].start()

    def _answer(self, connection: socket.socket) -> None:
        with closing(connection), suppress(OSError):
            while connection.recv(65536):
                self._sound -= 1
                if self._sound >= 0:
                    connection.sendall(HEAD + b'Content-Length: 16\r\n\r\n{"galleries":[]}')
                    continue
                connection.sendall(self._begin)
                for more in self._more:
                    if self._over.wait(PAUSE):
                        return
                    connection.sendall(more)


@pytest.mark.parametrize(("begin", "more"), ENDLESS.values(), ids=ENDLESS)
def test_an_answer_without_an_end_is_given_up(begin: bytes, more: Iterator[bytes]) -> None:
    with Drip(begin, more) as drip, Client(drip.url, longest=0.2) as client:
        with pytest.raises(Unavailable, match=r"no whole answer to GET v1/galleries in 0\.2 seconds") as caught:
            client.galleries()
        assert "\n" not in str(caught.value)


def test_so_is_one_of_a_connection_that_was_used_before() -> None:
    with Drip(*ENDLESS["a head"], sound=2) as drip, Client(drip.url, longest=0.2) as client:
        assert client.galleries() == client.galleries() == []
        with pytest.raises(Unavailable, match="no whole answer"):
            client.galleries()
        assert drip.connections == 1


def test_a_service_is_not_ready_that_does_not_come_to_an_end() -> None:
    with Drip(*ENDLESS["a head"]) as drip, Client(drip.url, longest=0.2) as client:
        assert not client.ready()
