"""Images as plain values: what a decoding process does for its parent, and what the parent makes of it."""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from spade_index.errors import ImageError
from spade_index.settings import Preprocessing

from .decode import DecodedImage, decode_noted, load, load_picture, preprocess
from .files import ImageFile
from .geometry import Geometry
from .pages import pages_noted
from .workers import Answer, Call, DecoderPool, Plain, shared_pool
from .workers.calls import WRONG

LONGEST = 256 << 10  # bytes of a thumbnail


def loading(file: ImageFile, how: Preprocessing, pixels: int, *, thumbnail: bool = True) -> Call:
    """Return the call that loads a file, for `decoded`."""
    return Call(_load, file.path, file.read, (file.path, how, pixels, thumbnail))


def preparing(file: ImageFile, how: Preprocessing, pixels: int) -> Call:
    """Return the call that prepares an image which is not to be kept, for `decoded`: no thumbnail is made."""
    return Call(_prepare, file.path, file.read, (file.path, how, pixels))


def picturing(file: ImageFile, how: Preprocessing, pixels: int, *, alone: bool = False) -> Call:
    """Return the call that decodes a file in full size, for `picture`.

    With `alone`, other pages of a TIFF are not files of their own, and noted.
    """
    return Call(_picture, file.path, file.read, (file.path, how, pixels, alone))


def decoded(file: ImageFile, answer: Answer, how: Preprocessing) -> DecodedImage:
    """Return the image of an answer. Raises ImageError if it has none."""
    facts, parts = answer.facts, answer.parts
    try:
        pixels = np.frombuffer(parts[0], np.uint8).reshape(*how.input_size, 3)
        left, top, right, bottom = map(float, facts["box"])
        geometry = Geometry(int(facts["width"]), int(facts["height"]), (left, top, right, bottom))
        if len(parts[1]) > LONGEST or min(geometry.width, geometry.height) < 1:
            raise ValueError("not an image")
        return DecodedImage(file, bytes.fromhex(facts["digest"]), pixels, geometry, bytes(parts[1]), _notice(facts))
    except WRONG as error:
        raise _wrong(file, error) from error


def picture_of(
    file: ImageFile, how: Preprocessing, size: tuple[int, int] | None = None, decoders: DecoderPool | None = None
) -> Image.Image:
    """Decode a file in another process, and resize it to `size`, width and height, if given. Raises ImageError.

    The process is one of `decoders`, by default the program's own.
    """
    pool = decoders or shared_pool()
    arguments = (file.path, how, pool.limits.pixels, False, size)
    return picture(file, pool.answer(Call(_picture, file.path, file.read, arguments)))[0]


def picture(file: ImageFile, answer: Answer) -> tuple[Image.Image, bytes, str | None]:
    """Return what `load_picture` does, of an answer. Raises ImageError if it has no image."""
    facts = answer.facts
    try:
        image = Image.frombuffer("RGB", (int(facts["width"]), int(facts["height"])), answer.parts[0])
        return image, bytes.fromhex(facts["digest"]), _notice(facts)
    except WRONG as error:
        raise _wrong(file, error) from error


def _notice(facts: dict[str, Any]) -> str | None:
    return None if facts["notice"] is None else str(facts["notice"])


def _wrong(file: ImageFile, error: Exception) -> ImageError:
    return ImageError(f"{file.path}: cannot be decoded (its decoder answered {error!r})")


def _load(read: Callable[[], bytes], path: str, how: Preprocessing, pixels: int, thumbnail: bool) -> Plain:
    image = load(ImageFile(path, path, 0, 0, read), how, pixels, thumbnail=thumbnail)
    return _plain(image.pixels, image.geometry, image.digest, image.thumbnail, image.notice)


def _prepare(read: Callable[[], bytes], name: str, how: Preprocessing, pixels: int) -> Plain:
    data = read()
    opened = decode_noted(data, name, pixels, how)
    return _plain(*preprocess(opened.image, how), b"", b"", opened.notice or pages_noted(data, name))


def _plain(pixels: np.ndarray, shown: Geometry, digest: bytes, thumbnail: bytes, notice: str | None) -> Plain:
    facts = {"width": shown.width, "height": shown.height, "box": shown.box, "digest": digest.hex(), "notice": notice}
    return facts, [pixels.data.cast("B"), thumbnail]


def _picture(
    read: Callable[[], bytes],
    path: str,
    how: Preprocessing,
    pixels: int,
    alone: bool,
    size: tuple[int, int] | None = None,
) -> Plain:
    image, digest, notice = load_picture(ImageFile(path, path, 0, 0, read), how, pixels)
    if alone and notice is None:
        notice = pages_noted(read(), path)
    if size is not None:
        image = image.resize(size, Image.Resampling.BICUBIC)
    facts = {"width": image.width, "height": image.height, "digest": digest.hex(), "notice": notice}
    return facts, [image.tobytes()]
