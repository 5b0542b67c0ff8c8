"""Image files of more than 8 bits, which Pillow cannot write."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import tifffile

COLOUR = {1: 0, 2: 4, 3: 2, 4: 6}  # PNG's colour type by number of bands


def scaled(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Return 8-bit pixels as values uint16 of some bits: 255 becomes 2^bits - 1."""
    return np.rint(pixels.astype(float) / 255 * (2**bits - 1)).astype(np.uint16)


def png16(values: np.ndarray, significant: int | None = None) -> bytes:
    """Return a PNG of values uint16 [H, W] or [H, W, C], with an sBIT chunk if `significant` bits are given."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, *bands = values.shape
    count = bands[0] if bands else 1
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, COLOUR[count], 0, 0, 0))
    said = b"" if significant is None else chunk(b"sBIT", bytes([significant] * count))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + header + said + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(values: np.ndarray, **options: object) -> bytes:
    """Return a TIFF of values of any type; `options` are those of tifffile."""
    buffer = io.BytesIO()
    options = {"photometric": "rgb" if values.ndim == 3 else "minisblack"} | options
    tifffile.imwrite(buffer, values, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def write(path: Path, values: np.ndarray) -> Path:
    """Write values as the suffix says, PNG or TIFF; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png16(values) if path.suffix == ".png" else tiff(values))
    return path
