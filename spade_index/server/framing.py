"""h11's connection with limits that hold however the bytes arrive: of heads, and of the number of chunks of a body.

h11 itself limits heads that are not complete only; one that arrives at once may be as long as the system's buffers.
"""

import re
from typing import Any

import h11

from .limits import CHUNK_BYTES, FREE_CHUNKS, HEAD_BYTES

LENGTH = re.compile(rb"^content-length[ \t]*:([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
VERSIONS = (b"1.0", b"1.1")
TOO_LONG = 431  # h11's status for what does not end within its limit


class BoundedConnection(h11.Connection):
    """The side of a server; `refused` says what is over a limit."""

    refused: str | None = None
    refused_status = 400
    head_only = False  # the answer to HEAD has no body
    _chunks = 0
    _received = 0  # bytes of the body

    def __init__(self) -> None:
        super().__init__(h11.SERVER, HEAD_BYTES)

    def next_event(self) -> Any:
        """Return the next event. Raises RemoteProtocolError."""
        head = self.trailing_data[0] if self.their_state is h11.IDLE else b""
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            if error.error_status_hint == TOO_LONG:
                self.refused = f"the head is over the limit of {HEAD_BYTES:,} bytes"
            raise
        if isinstance(event, h11.Request):
            self._chunks = self._received = 0
            self.head_only = event.method == b"HEAD"
            names = [name.lower() for name, _ in event.headers.raw_items()]
            if event.http_version not in VERSIONS:
                self.refused_status = 505
                self._refuse("this is HTTP/1.1")
            lengths = LENGTH.findall(head[: len(head) - len(self.trailing_data[0])])
            if len(lengths) > 1 or any(b"," in length for length in lengths):
                self._refuse("a body has one Content-Length")  # h11 takes several that are the same
            if {b"transfer-encoding", b"content-length"} <= {*names}:
                self._refuse("a body has either a Content-Length or a Transfer-Encoding")  # proxies take the other one
            if len(head) - len(self.trailing_data[0]) > HEAD_BYTES:
                self._refuse(f"the head is over the limit of {HEAD_BYTES:,} bytes")
        elif isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._received += len(event.data)
            if self._chunks > FREE_CHUNKS and self._received < CHUNK_BYTES * self._chunks:
                self._refuse(f"the chunks of the body have less than {CHUNK_BYTES} bytes on average")
        return event

    def start_next_cycle(self) -> None:
        """Expect the next request."""
        super().start_next_cycle()
        self.head_only = False

    def _refuse(self, why: str) -> None:
        self.refused = why
        raise h11.RemoteProtocolError(why)
