"""Send one hostile request, and say how it ended."""

import random
import re
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass

from durability.attack_requests import Hostile

PIECES = 40  # of a slow request, which takes longer than it may
PAUSE = 0.2  # seconds between them
SLACK = 10.0  # seconds that the machine may be late


@dataclass(frozen=True)
class Limits:
    """Seconds of the service's limits, and what no answer may tell."""

    head: float
    body: float
    request: float
    secrets: dict[str, bytes]  # by gallery: a word that only its key may see
    root: bytes  # the folder of the galleries

    @property
    def answer(self) -> float:
        """Seconds after which a request has hung."""
        return self.head + self.body + self.request + SLACK


@dataclass(frozen=True)
class Outcome:
    """How a request ended."""

    status: int | None  # None: closed without an answer
    seconds: float
    hung: bool = False
    fault: str | None = None  # what is wrong with the answer


def send(hostile: Hostile, port: int, rng: random.Random, limits: Limits) -> Outcome:
    """Send a request in its manner, and wait for the answer or the end of the connection."""
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), SLACK) as client:
        client.settimeout(limits.answer)
        answer = b""
        try:
            _send(client, hostile, rng)
            if hostile.manner == "cut":
                return Outcome(None, time.monotonic() - begun)
            if hostile.manner == "unread":
                time.sleep(rng.random())
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return Outcome(None, time.monotonic() - begun)
            answer = _received(client, hostile.data)
        except TimeoutError:
            return Outcome(None, time.monotonic() - begun, hung=True)
        except ConnectionError:
            pass
    seconds = time.monotonic() - begun
    if not answer:
        return Outcome(None, seconds, hung=seconds > limits.answer)
    status = int(answer.split(b" ", 2)[1])
    return Outcome(status, seconds, seconds > limits.answer, _fault(answer, status, hostile, limits))


def _send(client: socket.socket, hostile: Hostile, rng: random.Random) -> None:
    data = hostile.data
    if hostile.manner == "slow":
        size = max(1, len(data) // PIECES)
        with suppress(ConnectionError):
            for start in range(0, size * PIECES, size):
                client.sendall(data[start : start + size])
                time.sleep(PAUSE)
        return
    if hostile.manner in ("cut", "half-open"):
        data = data[: rng.randrange(len(data) + 1)]
    with suppress(ConnectionError):  # an answer may have come before all was sent
        client.sendall(data)
    if hostile.manner == "half-open" and rng.random() < 0.5:
        client.shutdown(socket.SHUT_WR)


def _received(client: socket.socket, sent: bytes) -> bytes:
    """Return the first answer, which is whole or ends with the connection."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        if not (data := client.recv(1 << 16)):
            return answer
        answer += data
        if re.match(rb"HTTP/1\.1 1\d\d ", answer) and b"\r\n\r\n" in answer:
            answer = answer.partition(b"\r\n\r\n")[2]
    found = re.search(rb"\r\ncontent-length: (\d+)", answer[: answer.index(b"\r\n\r\n")], re.IGNORECASE)
    has_body = found is not None and not sent.startswith(b"HEAD ")
    whole = answer.index(b"\r\n\r\n") + 4 + (int(found[1]) if found and has_body else 0)
    while len(answer) < whole and (data := client.recv(1 << 16)):
        answer += data
    return answer[:whole]


def _fault(answer: bytes, status: int, hostile: Hostile, limits: Limits) -> str | None:
    """Return what is wrong with an answer, if something is."""
    if status >= 500 and status != 503:
        return f"status {status}"
    if b"\r\nx-request-id: " not in answer.lower():
        return "no request id"
    if limits.root in answer:
        return "it tells a folder of the server"
    for gallery, secret in limits.secrets.items():
        if gallery != hostile.gallery and secret in answer:
            return f"it tells of gallery {gallery}"
    body = answer.partition(b"\r\n\r\n")[2]
    if status >= 400 and (b"\n" in body or len(body) > 20_000):
        return "more than one line of error"
    return None
