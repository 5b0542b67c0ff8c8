"""Open image files of the formats that are read, without decoding them."""

import io
from functools import cache

from PIL import Image, ImageFile

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF")  # of Pillow
HEIF = "HEIF"  # of pillow-heif
HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
AVIF_BRANDS = (b"avif", b"avis")


class Refused(ValueError):
    """An image that could be opened and is not read; the message follows the name of the file."""


def open_image(data: bytes) -> ImageFile.ImageFile:
    """Open an image file: its size and mode are known then, its pixels are not decoded. Use as a context manager.

    Raises Refused for HEIC without pillow-heif, and what Pillow raises for a file that is damaged or of another format.
    """
    image = Image.open(io.BytesIO(data), formats=(_heif(),) if _is_heif(data) else FORMATS)
    assert isinstance(image, ImageFile.ImageFile)
    return image


def takes_much_memory(image: ImageFile.ImageFile) -> bool:
    """Return whether decoding an image takes several times the memory of its pixels: its size is limited to half."""
    raw = image.tile[0].args if image.tile else None
    return image.format in ("JPEG2000", "AVIF", HEIF) or (image.mode in ("RGB", "RGBA", "CMYK") and ";16" in str(raw))


def _is_heif(data: bytes) -> bool:
    """Return whether a file is HEIF with other contents than AV1, which Pillow itself decodes."""
    if data[4:8] != b"ftyp" or data[8:12] not in HEIF_BRANDS:
        return False
    compatible = data[16 : min(int.from_bytes(data[:4]), 256)]
    return not any(brand in compatible for brand in AVIF_BRANDS)


@cache
def _heif() -> str:
    """Register the decoder of HEIF with Pillow, and return its name."""
    try:
        import pillow_heif
    except ImportError as error:
        raise Refused("HEIC images need pillow-heif: `pip install 'spade_index[heic]'`") from error
    pillow_heif.register_heif_opener(thumbnails=False)
    return HEIF
