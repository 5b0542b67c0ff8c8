"""Refuse PNG files whose pixels are damaged, which Pillow decodes to something else without a word."""

import struct
import zlib

from .formats import Refused

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEAD = struct.Struct(">I4s")  # of a chunk: its length and kind
PIXELS, END = (b"PLTE", b"IDAT"), b"IEND"  # kinds of chunks


def require_sound(data: bytes) -> None:
    """Raise Refused for a PNG file with a chunk of pixels or colours that its checksum does not fit. Others pass."""
    if not data.startswith(SIGNATURE):
        return
    view, at = memoryview(data), len(SIGNATURE)
    while at + HEAD.size <= len(data):
        length, kind = HEAD.unpack_from(data, at)
        end = at + HEAD.size + length
        if kind == END:
            return
        stated = view[end : end + 4]
        if kind in PIXELS and len(stated) == 4 and zlib.crc32(view[at + 4 : end]) != int.from_bytes(stated):
            raise Refused("it is damaged (a checksum does not fit): take it from the camera or a copy again")
        at = end + 4
