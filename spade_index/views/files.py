"""Encode pictures, and write files that are complete or not there."""

import base64
import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from spade_index.images.marks import SOFTWARE


def encode(picture: Image.Image, file_format: str, *, small: bool = True) -> bytes:
    """Return a picture as the bytes of a file, "JPEG" or "PNG", with a mark of this package.

    With `small`, it takes more time to be smaller.
    """
    buffer = io.BytesIO()
    picture.save(buffer, file_format, quality=85, optimize=small, **mark(file_format))
    return buffer.getvalue()


def encode_array(values: np.ndarray) -> bytes:
    """Return an array as the bytes of a file of NumPy."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def mark(file_format: str) -> dict[str, Any]:
    """Return the options of Pillow's `save` that write the mark by which this package knows its own pictures."""
    if file_format == "JPEG":
        return {"comment": f"Software: {SOFTWARE}"}
    text = PngInfo()
    text.add_text("Software", SOFTWARE)
    return {"pnginfo": text}


def data_uri(picture: Image.Image | None, file_format: str) -> str | None:
    """Return a picture as the source of an HTML image; None for none."""
    return None if picture is None else uri_of(encode(picture, file_format), file_format)


def uri_of(file: bytes, file_format: str) -> str:
    """Return the bytes of a picture's file as the source of an HTML image."""
    return f"data:image/{file_format.lower()};base64,{base64.b64encode(file).decode('ascii')}"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the name of a file into an OSError that has none, as of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        raise


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under another name, then rename it: no process reads a partial file, also after a crash.

    Missing folders are made. Raises OSError if the file cannot be written.
    """
    if path.exists() and not path.is_file():  # a device, or a pipe: it is not replaced
        with naming(path):
            path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with naming(path):
            unfinished.write_bytes(data)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
