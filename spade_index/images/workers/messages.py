"""Messages between a process and its decoders: parts of bytes over a socket, each after its length."""

import socket
import struct
import time
from collections.abc import Sequence

COUNT = struct.Struct("<Q")  # of parts, before their lengths
MOST_PARTS = 1 << 20
AT_ONCE = 256  # parts that are given to the system

Part = bytes | bytearray | memoryview


def send(channel: socket.socket, parts: Sequence[Part], deadline: float | None = None) -> None:
    """Send a message. Raises OSError if the other side is gone, TimeoutError at the deadline (time.monotonic)."""
    lengths = [memoryview(part).nbytes for part in parts]
    head = struct.pack(f"<{1 + len(parts)}Q", len(parts), *lengths)
    left = [memoryview(head), *(memoryview(part).cast("B") for part in parts)]
    while left:
        _set_timeout(channel, deadline)
        sent = channel.sendmsg(left[:AT_ONCE])
        while left and sent >= len(left[0]):
            sent -= len(left.pop(0))
        if left:
            left[0] = left[0][sent:]


def receive(channel: socket.socket, most: int, deadline: float | None = None) -> list[bytearray]:
    """Return the parts of a message, of `most` bytes in all.

    Raises EOFError if the other side is gone, ValueError if it sends something else, OSError, and TimeoutError at the
    deadline.
    """
    (count,) = COUNT.unpack(_exactly(channel, COUNT.size, deadline))
    if count > MOST_PARTS:
        raise ValueError("a message of too many parts")
    lengths = struct.unpack(f"<{count}Q", _exactly(channel, COUNT.size * count, deadline))
    if sum(lengths) > most:
        raise ValueError("a message that is too large")
    return [_exactly(channel, length, deadline) for length in lengths]


def _exactly(channel: socket.socket, size: int, deadline: float | None) -> bytearray:
    data = bytearray(size)
    left = memoryview(data)
    while left:
        _set_timeout(channel, deadline)
        if not (count := channel.recv_into(left)):
            raise EOFError
        left = left[count:]
    return data


def _set_timeout(channel: socket.socket, deadline: float | None) -> None:
    if deadline is not None:
        channel.settimeout(max(deadline - time.monotonic(), 1e-3))
