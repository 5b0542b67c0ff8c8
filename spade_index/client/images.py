"""Convert images to the files that the client sends."""

import io
import os
from collections.abc import Iterable, Mapping
from io import IOBase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spade_index.errors import InputError
from spade_index.paths import path_of

OpenFile = IOBase  # for reading bytes
AnyImage = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | NDArray[np.uint8] | OpenFile
Form = list[tuple[str, tuple[str, bytes]]]  # files, with their names, of fields
Images = AnyImage | Iterable[AnyImage] | Mapping[str, AnyImage]  # one, some, or some by their names

NOT_AN_IMAGE = "not an image: a path, bytes, a PIL image or a NumPy array"


def named_files(images: Images) -> list[tuple[str | None, bytes]]:
    """Return images as files, with their names if they have any. Raises InputError."""
    if isinstance(images, Mapping):
        if not all(isinstance(name, str) for name in images):
            raise InputError("the names of images are texts")
        files: list[tuple[str | None, bytes]] = [(name, _file(image, name)[1]) for name, image in images.items()]
    elif isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Image.Image | np.ndarray | IOBase):
        files = [_file(images, "the image")]
    elif not isinstance(images, Iterable):
        raise InputError(f"{NOT_AN_IMAGE}, not {type(images)}")
    else:
        files = [_file(image, f"images[{number}]") for number, image in enumerate(images)]
    if not files:
        raise InputError("no image: hand in at least one")
    return files


def with_names(images: Images) -> Form:
    """Return images as files of a form, with names. Raises InputError for one without."""
    files = named_files(images)
    if (nameless := next((number for number, (name, _) in enumerate(files) if not name), None)) is not None:
        raise InputError(f"images[{nameless}] has no name to become its id: give a path, or {{name: image}}")
    return form_of("images", files)


def form_of(field: str, files: list[tuple[str | None, bytes]]) -> Form:
    """Return files as those of a field of a form."""
    return [(field, (name or f"{field}[{number}]", data)) for number, (name, data) in enumerate(files)]


def _file(image: AnyImage, name: str) -> tuple[str | None, bytes]:
    if isinstance(image, bytes | bytearray | memoryview):
        return None, bytes(image)
    if isinstance(image, str | os.PathLike):
        path = path_of(image, name)
        try:
            return path.name, path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if isinstance(image, IOBase):
        try:
            data = image.read() if hasattr(image, "read") else None
        except (OSError, ValueError) as error:  # such as one that is closed
            raise InputError(f"{name}: a file that cannot be read ({error})") from error
        if not isinstance(data, bytes):
            raise InputError(f"{name}: a file that is not open for reading bytes: open it with mode 'rb'")
        own = getattr(image, "name", None)
        return (Path(own).name if isinstance(own, str) else None), data
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
            raise InputError(f"{name}: an array must be uint8 [H, W] or [H, W, 3], not {image.dtype} {image.shape}")
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise InputError(f"{name}: {NOT_AN_IMAGE}, not {type(image)}")
    buffer = io.BytesIO()
    try:
        image.save(buffer, "PNG", compress_level=1, exif=image.getexif())  # which may say how it is turned
    except OSError as error:
        raise InputError(f"{name}: a PIL image of mode {image.mode} has no PNG: convert it to RGB") from error
    except ValueError as error:  # of one that is empty or closed
        raise InputError(f"{name}: an image that cannot be sent ({error})") from error
    return None, buffer.getvalue()
