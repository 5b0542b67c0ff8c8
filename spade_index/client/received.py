"""What a service answers, which may be another program: read within a limit, and checked for what it should be."""

import io
import re
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spade_index.errors import ServiceError
from spade_index.exact import JsonError, read_json

from .arguments import shown

MOST_BYTES = 1 << 30  # of an answer, more than any picture or score map has
FORMATS = ("PNG", "JPEG")  # of pictures
MAP = re.compile(  # how the file of a score map begins
    rb"\x93NUMPY\x01\x00..\{'descr': '<f4', 'fortran_order': False, 'shape': \(([0-9]{1,9}), ([0-9]{1,9})\), \} *\n",
    re.DOTALL,
)


def received(response: httpx.Response) -> httpx.Response:
    """Return an answer with its body. Raises ServiceError for one of more than MOST_BYTES, or that is compressed."""
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise _foreign(response, "compressed, which was not asked for")
    body = bytearray()
    for piece in response.iter_raw():
        body += piece
        if len(body) > MOST_BYTES:
            raise _foreign(response, f"over the limit of {MOST_BYTES:,} bytes")
    headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() != "transfer-encoding"]
    reason = {name: value for name, value in response.extensions.items() if name == "reason_phrase"}
    return httpx.Response(
        response.status_code, headers=headers, content=bytes(body), request=response.request, extensions=reason
    )


def json_of(response: httpx.Response) -> Any:
    """Return the value of an answer in JSON. Raises ServiceError."""
    try:
        return read_json(response.content.decode())
    except (JsonError, UnicodeDecodeError) as error:
        raise _foreign(response, "not JSON: not the address of a service") from error


def picture_of(response: httpx.Response) -> Image.Image:
    """Return the picture of an answer. Raises ServiceError."""
    try:
        picture = Image.open(io.BytesIO(response.content), formats=FORMATS)
        picture.load()
    except Exception as error:  # Pillow raises exceptions of many kinds on damaged files
        raise _foreign(response, "not a picture") from error
    return picture


def map_of(response: httpx.Response) -> NDArray[np.float32]:
    """Return the score map of an answer, float32 [H, W]. Raises ServiceError."""
    head = MAP.match(response.content)
    rows, columns = (int(head[1]), int(head[2])) if head else (0, 0)
    if head is None or len(response.content) != head.end() + 4 * rows * columns:
        raise _foreign(response, "not a score map")
    return np.frombuffer(response.content, "<f4", offset=head.end()).reshape(rows, columns).astype(np.float32)


def _foreign(response: httpx.Response, why: str) -> ServiceError:
    message = f"{shown(response.request.url)}: the answer is {why}"
    return ServiceError(message, status=response.status_code)
