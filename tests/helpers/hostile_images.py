"""Small image files whose decoding takes much time or memory."""

import io
import struct
import zlib

from PIL import Image


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def flat_png(edge: int) -> bytes:
    """Return a PNG file of a square of one colour: a few kilobytes that become 4 bytes for each pixel, and more."""
    buffer = io.BytesIO()
    Image.new("RGB", (edge, edge)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def png_with(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a small PNG file with more chunks before its pixels."""
    whole = flat_png(40)
    head = 8 + 25  # signature and IHDR
    return whole[:head] + b"".join(chunk(kind, data) for kind, data in chunks) + whole[head:]


def slow_bmp(width: int = 20_000, height: int = 2_400) -> bytes:
    """Return a BMP file of lines that are a run of one pixel each: Pillow fills the rest of them byte by byte."""
    lines = b"\x01\x05\x00\x00" * height + b"\x00\x01"
    palette = bytes(1024)
    start = 14 + 40 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(lines), 0, 0, 256, 0)
    return struct.pack("<2sIHHI", b"BM", start + len(lines), 0, 0, start) + info + palette + lines


def many_pages(pages: int) -> bytes:
    """Return a TIFF file of so many pages, whose directories are all there; the first is an image of 40x36 pixels."""
    buffer = io.BytesIO()
    Image.new("L", (40, 36)).save(buffer, "TIFF")
    first = bytearray(buffer.getvalue())
    offset = struct.unpack_from("<I", first, 4)[0]
    count = struct.unpack_from("<H", first, offset)[0]
    directory = bytes(first[offset : offset + 2 + 12 * count])
    size = len(directory) + 4
    begins = len(first) + len(first) % 2
    struct.pack_into("<I", first, offset + 2 + 12 * count, begins)
    more = (directory + struct.pack("<I", begins + size * (page + 1)) for page in range(pages))
    return bytes(first).ljust(begins, b"\0") + b"".join(more)


def many_frames(format: str, frames: int) -> bytes:
    """Return an animation of small frames."""
    buffer = io.BytesIO()
    pictures = [Image.new("RGB", (40, 36), (number % 256, number // 256, 0)) for number in range(frames)]
    pictures[0].save(buffer, format, save_all=True, append_images=pictures[1:])
    return buffer.getvalue()


def claiming(format: str, edge: int = 60_000) -> bytes:
    """Return a small file that claims to be a large square."""
    buffer = io.BytesIO()
    Image.new("L", (40, 36)).save(buffer, format)
    data = bytearray(buffer.getvalue())
    if format == "GIF":
        struct.pack_into("<HH", data, 6, edge, edge)
        at = data.index(b"\x2c", 13 + 3 * 256) if b"\x2c" in data[13 + 3 * 256 :] else data.index(b"\x2c", 13)
        struct.pack_into("<HH", data, at + 5, edge, edge)
    elif format == "BMP":
        struct.pack_into("<ii", data, 18, edge, edge)
    else:  # boxes of JPEG 2000, then the segment of its size
        at = data.index(b"ihdr") + 4
        struct.pack_into(">II", data, at, edge, edge)
        at = data.index(b"\xff\x4f\xff\x51") + 8
        struct.pack_into(">II", data, at, edge, edge)
    return bytes(data)
