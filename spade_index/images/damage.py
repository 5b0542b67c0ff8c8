"""Find damage in the middle of files, which Pillow decodes to grey, black or shifted pixels without a word.

- JPEG: libjpeg notices where its data does not fit, and Pillow does not pass that on. So simplejpeg reads the data once
  more; at an eighth of the size, as here, that takes little but the decoding of its Huffman codes.
- TIFF with deflate: the checksum at the end of each strip, which libtiff does not always reach.
- WebP, AVIF and HEIC, whose coding has no checks: a file of which the end was never written, and is zeros.
"""

import re
import zlib

from PIL import ImageFile, TiffImagePlugin

from .formats import HEIF, Refused
from .tiff import COMPRESSION, STRIPS, TILES, numbers

try:
    import simplejpeg
except ImportError:  # as where the package was updated and its requirements were not: JPEG is then read as before
    simplejpeg = None

# Where data is missing or has become other data; other warnings are of files that cameras write.
CORRUPT = ("premature end", "bad Huffman code", "instead of RST")
EXTRANEOUS = re.compile("([0-9]+) extraneous bytes before marker (0x[0-9a-f]{2})")
END, PADDING = "0xd9", 100  # the last marker, and bytes before it with which cameras may fill up their data
DEFLATE = (8, 32946)  # values of TIFF's tag
AT_ONCE = 1 << 20  # bytes that are inflated at a time
UNCHECKED = ("WEBP", "AVIF", HEIF)
PAGE = 4096  # bytes that a disk or a memory card writes at a time
AGAIN = "take it from the camera or a copy again"


def require_undamaged(image: ImageFile.ImageFile, data: bytes) -> str | None:
    """Raise Refused for an image, just opened from `data`, whose pixels are damaged, as far as that can be told.

    Return what may be wrong with it, in words.
    """
    if image.format in ("JPEG", "MPO"):
        return _of_jpeg(data)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(COMPRESSION) in DEFLATE:
        _require_strips(image, data)
    if image.format in UNCHECKED and data.endswith(bytes(PAGE)):
        raise Refused(f"it ends in zeros, so it was not written to its end: {AGAIN}")
    return None


def _of_jpeg(data: bytes) -> str | None:
    if simplejpeg is None:
        return None
    try:
        four = simplejpeg.decode_jpeg_header(data)[2] in ("CMYK", "YCCK")
        simplejpeg.decode_jpeg(data, "CMYK" if four else "GRAY", min_factor=8)
    except ValueError as error:
        said = str(error)
        extra = EXTRANEOUS.search(said)
        padded = extra is not None and extra[2] == END and int(extra[1]) <= PADDING
        if any(words in said for words in CORRUPT) or (extra is not None and not padded):
            raise Refused(f"it is damaged (its data does not fit): {AGAIN}") from error
        if padded:
            return "it has more data than its pixels take: it may be damaged"
    return None


def _require_strips(image: TiffImagePlugin.TiffImageFile, data: bytes) -> None:
    """Raise Refused if a strip or a tile does not fit its checksum. What is too short is left to libtiff."""
    tags, view = image.tag_v2, memoryview(data)
    left = 16 * image.width * image.height  # bytes: as many as the largest pixels take
    for offsets, sizes in (STRIPS, TILES):
        for offset, size in zip(numbers(tags, offsets), numbers(tags, sizes), strict=False):
            inflate, rest = zlib.decompressobj(), bytes(view[offset : offset + size])
            try:
                while rest and not inflate.eof and left > 0:
                    left -= len(inflate.decompress(rest, AT_ONCE))
                    rest = inflate.unconsumed_tail
            except zlib.error as error:
                raise Refused(f"it is damaged (a checksum does not fit): {AGAIN}") from error
