"""Tags of TIFF files, also of those that Pillow cannot open."""

import io
from contextlib import suppress

from PIL import TiffImagePlugin

BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLES_PER_PIXEL, HIGHEST, PLANES = 258, 262, 277, 281, 284
EXTRA_SAMPLES, SAMPLE_FORMAT = 338, 339
COMPRESSION, STRIPS, TILES = 259, (273, 279), (324, 325)  # the latter: where they are, and how long
KINDS = {1: "unsigned", 2: "signed", 3: "floating-point"}  # by sample format
BIG_ENDIAN_BIG = b"MM\0+"  # which Pillow does not know
STARTS = (b"II*\0", b"MM\0*", b"II+\0")

Tags = TiffImagePlugin.ImageFileDirectory_v2


def numbers(tags: Tags, tag: int) -> tuple[int, ...]:
    """Return the values of a tag; none if the file has not got it, or something else than whole numbers."""
    value = tags.get(tag, ())
    values = value if isinstance(value, tuple) else (value,)
    return values if all(isinstance(number, int) for number in values) else ()


def tags_of(data: bytes) -> Tags | None:
    """Return the tags of a TIFF file's first page; None if they cannot be read, or it is another file."""
    if not data.startswith(STARTS):
        return None
    with suppress(Exception):  # Pillow raises exceptions of many kinds on damaged files
        big = b"+" in data[:4]
        tags = Tags(data[: 16 if big else 8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        return tags
    return None


def described(tags: Tags) -> str:
    """Return in words what the pixels of a TIFF are."""
    bits, kinds = numbers(tags, BITS_PER_SAMPLE) or (1,), numbers(tags, SAMPLE_FORMAT) or (1,)
    (bands,) = numbers(tags, SAMPLES_PER_PIXEL)[:1] or (1,)
    return f"{bands} band{'s' * (bands > 1)} of {KINDS.get(kinds[0], 'other')} pixels of {max(bits)} bits"
