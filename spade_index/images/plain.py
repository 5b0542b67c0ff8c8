"""Images as plain values: what a decoding process does for its parent, and what the parent makes of it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from spade_index.errors import ImageError
from spade_index.settings import Preprocessing

from .decode import DecodedImage, Geometry, decode_noted, load_parts, preprocess
from .files import ImageFile
from .pages import pages_noted
from .tiles import Box, Tile
from .workers import Answer, Call
from .workers.calls import Held

Plain = tuple[dict[str, Any], list[Any]]
LONGEST = 256 << 10  # bytes of a thumbnail


def loading(file: ImageFile, how: Preprocessing, pixels: int) -> Call:
    """Return the call that loads a file."""
    return Call(_load, file.path, file.read, (file.path, how, pixels))


def preparing(data: bytes, name: str, how: Preprocessing, pixels: int) -> Call:
    """Return the call that prepares an image which is not to be kept: no thumbnail is made."""
    return Call(_prepare, name, Held(data), (name, how, pixels))


def decoded(file: ImageFile, answer: Answer, how: Preprocessing) -> list[DecodedImage]:
    """Return the images of the answer to one of these calls. Raises ImageError if it has none."""
    try:
        images = answer.facts["images"]
        parts = [answer.parts[at : at + 2] for at in range(0, 2 * len(images), 2)]
        if not images:
            raise ValueError("no image")
        return [_decoded(file, facts, of, how) for facts, of in zip(images, parts, strict=True)]
    except (KeyError, IndexError, TypeError, ValueError, ArithmeticError) as error:
        raise ImageError(f"{file.path}: cannot be decoded (its decoder answered {error!r})") from error


def _decoded(file: ImageFile, facts: dict[str, Any], parts: Sequence[bytearray], how: Preprocessing) -> DecodedImage:
    pixels = np.frombuffer(parts[0], np.uint8).reshape(*how.input_size, 3)
    geometry = Geometry(int(facts["width"]), int(facts["height"]), _box(facts["box"]))
    if len(parts[1]) > LONGEST or min(geometry.width, geometry.height) < 1:
        raise ValueError("not an image")
    notice = None if facts["notice"] is None else str(facts["notice"])
    digest = bytes.fromhex(facts["digest"])
    return DecodedImage(file, digest, pixels, geometry, bytes(parts[1]), notice, _tile(facts["tile"]))


def _box(values: Any) -> Box:
    left, top, right, bottom = (float(value) for value in values)
    return left, top, right, bottom


def _tile(values: Any) -> Tile | None:
    if values is None:
        return None
    number, count, box, contents = values
    return Tile(int(number), int(count), _box(box), bytes.fromhex(contents))


def _load(read: Callable[[], bytes], path: str, how: Preprocessing, pixels: int) -> Plain:
    return _plain(load_parts(ImageFile(path, path, 0, 0, read), how, pixels))


def _prepare(read: Callable[[], bytes], name: str, how: Preprocessing, pixels: int) -> Plain:
    data = read()
    opened = decode_noted(data, name, pixels, how)
    array, geometry = preprocess(opened.image, how)
    notice = opened.notice or pages_noted(data, name)
    return _plain([DecodedImage(ImageFile(name, name, 0, 0, read), b"", array, geometry, b"", notice)])


def _plain(images: list[DecodedImage]) -> Plain:
    parts = [part for image in images for part in (image.pixels.data.cast("B"), image.thumbnail)]
    return {"images": [_facts(image) for image in images]}, parts


def _facts(image: DecodedImage) -> dict[str, Any]:
    shown, tile = image.geometry, image.tile
    return {
        "width": shown.width,
        "height": shown.height,
        "box": shown.box,
        "digest": image.digest.hex(),
        "notice": image.notice,
        "tile": tile and (tile.number, tile.count, tile.box, tile.contents.hex()),
    }
