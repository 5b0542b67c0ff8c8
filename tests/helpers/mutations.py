"""Mutations of files and requests, by which decoders and parsers are made to fail."""

import random
import struct

import numpy as np
from PIL import Image

from .tiny import random_image
from .uploads import encoded

FORMATS = {
    "JPEG": {"quality": 90},
    "PNG": {},
    "TIFF": {"compression": "tiff_lzw"},
    "BMP": {},
    "WEBP": {"quality": 90},
    "GIF": {},
    "PPM": {},
    "JPEG2000": {},
    "AVIF": {"quality": 90},
}


def originals(format: str) -> list[bytes]:
    """Files of one format, of several kinds of pixels."""
    image = random_image(5, (60, 44))
    modes = {"JPEG": ["RGB", "L", "CMYK"], "PNG": ["RGB", "RGBA", "P", "1", "I;16"], "TIFF": ["RGB", "L", "CMYK", "F"]}
    modes |= {"GIF": ["P", "RGBA"], "PPM": ["RGB", "L", "I;16", "1"], "JPEG2000": ["RGB", "RGBA", "L", "I;16"]}
    files = [encoded(converted(image, mode), format, **FORMATS[format]) for mode in modes.get(format, ["RGB", "RGBA"])]
    if format == "JPEG":
        exif = Image.Exif()
        exif[0x0112] = 6
        files.append(encoded(image, format, progressive=True, exif=exif))
    if format == "TIFF":
        files.append(encoded(image, format, save_all=True, append_images=[image]))
    return files


def converted(image: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image.convert(mode)


def flip(data: bytearray, rng: random.Random, others: list[bytes]) -> bytes:
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def flip_early(data: bytearray, rng: random.Random, others: list[bytes]) -> bytes:
    for _ in range(rng.choice([1, 2, 4])):
        data[rng.randrange(min(len(data), 64))] = rng.choice([0, 0xFF, 0x7F, 0x80, rng.randrange(256)])
    return bytes(data)


def truncate(data: bytearray, rng: random.Random, others: list[bytes]) -> bytes:
    return bytes(data[: rng.randrange(1, len(data))])


def set_a_number(data: bytearray, rng: random.Random, others: list[bytes]) -> bytes:
    """A length, an offset or a size becomes extreme."""
    form = rng.choice([">I", "<I", ">H", "<H"])
    size = struct.calcsize(form)
    at = rng.randrange(min(len(data), 400) - size)
    most = 256**size - 1
    struct.pack_into(
        form, data, at, rng.choice([0, 1, most, most // 2, most // 2 + 1, min(len(data), most), 0x10000 & most])
    )
    return bytes(data)


def splice(data: bytearray, rng: random.Random, others: list[bytes]) -> bytes:
    """The head of one format before the rest of another."""
    other = rng.choice(others)
    cut = rng.choice([4, 8, 16, 33, 100])
    return other[:cut] + bytes(data[rng.choice([0, cut]) :])


def repeat(data: bytearray, rng: random.Random, others: list[bytes]) -> bytes:
    start = rng.randrange(len(data))
    piece = data[start : start + rng.randrange(1, 200)]
    return bytes(data[:start] + piece * rng.choice([2, 10, 500]) + data[start:])


def drop(data: bytearray, rng: random.Random, others: list[bytes]) -> bytes:
    start = rng.randrange(len(data))
    del data[start : start + rng.randrange(1, 100)]
    return bytes(data)


MUTATE = [flip, flip_early, truncate, set_a_number, splice, repeat, drop]
