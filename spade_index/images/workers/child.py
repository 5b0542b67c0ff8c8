"""The process that decodes: it does one image after the other until its parent is gone.

It must import neither torch nor anything else that is large.
"""

import os
import resource
import select
import signal
import socket
import threading
from contextlib import suppress

from .calls import UNREAD, answered, unpack
from .messages import receive, send

MOST = 1 << 40  # bytes of a message; the parent is trusted
GRACE = 5.0  # seconds after which an image's time ends here, too, should the parent not see to it
HUNG_UP = getattr(select, "POLLRDHUP", select.POLLHUP)


def main(descriptor: int, memory: int, seconds: float) -> None:
    """Answer calls on a socket, in `memory` bytes more than now and `seconds` for each."""
    for number in (signal.SIGINT, signal.SIGTERM):  # which may be sent to all processes of a group
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    channel = socket.socket(fileno=descriptor)
    threading.Thread(target=_end_with_parent, args=(descriptor,), name="watch-parent", daemon=True).start()
    _prepare(memory)
    send(channel, [])
    while True:
        try:
            parts = receive(channel, MOST)
            try:
                calls = unpack(parts)
            except (ImportError, AttributeError):
                send(channel, [UNREAD])
                continue
            for work, read, arguments in calls:
                signal.setitimer(signal.ITIMER_REAL, seconds + GRACE)
                reply = answered(work, read, arguments)
                signal.setitimer(signal.ITIMER_REAL, 0)
                send(channel, reply)
                del reply
            del parts, calls, read
        except (EOFError, OSError):
            os._exit(0)


def _end_with_parent(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, HUNG_UP)
    poll.poll()
    os._exit(1)


def _prepare(memory: int) -> None:
    """Load what decoding needs, then limit this process: its memory from now on, no files, no core dumps.

    Where the machine runs out of memory, the system ends it before other programs.
    """
    from PIL import Image

    from spade_index.images import decode  # noqa: F401

    Image.init()
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    limit = memory + _data_now()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _data_now() -> int:
    """Return the bytes of this process that the limit counts."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmData:"))
    except (OSError, StopIteration):
        return 256 << 20
