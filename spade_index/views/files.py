"""Encode pictures, and write files that are complete or not there."""

import base64
import io
import os
from pathlib import Path

from PIL import Image


def encode(picture: Image.Image, file_format: str) -> bytes:
    """Return a picture as the bytes of a file, "JPEG" or "PNG"."""
    buffer = io.BytesIO()
    picture.save(buffer, file_format, quality=85, optimize=True)
    return buffer.getvalue()


def data_uri(picture: Image.Image | None, file_format: str) -> str | None:
    """Return a picture as the source of an HTML image; None for none."""
    if picture is None:
        return None
    data = base64.b64encode(encode(picture, file_format)).decode("ascii")
    return f"data:image/{file_format.lower()};base64,{data}"


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under another name, then rename it: no process reads a partial file, also after a crash.

    Missing folders are made. Raises OSError if the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
