"""What the bands of an image mean: one is grey, three are colours, and one more is alpha, where the file says so."""

from PIL import ImageFile, TiffImagePlugin

from .formats import Refused
from .tiff import EXTRA_SAMPLES, PHOTOMETRIC, SAMPLES_PER_PIXEL, numbers

ALPHA = (1, 2)  # kinds of extra samples: premultiplied and plain
COLOURS = {2: 3, 5: 4, 6: 3, 8: 3}  # bands by TIFF's photometric interpretation: RGB, CMYK, YCbCr, LAB; else one
CMYK = 5
RULE = "one, three or (CMYK) four are read, and alpha beside one or three"


def require_bands(image: ImageFile.ImageFile, data: bytes) -> None:
    """Raise Refused for an image, just opened from `data`, with bands that have no known meaning."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        require_tiff_bands(image.tag_v2)
    elif image.format == "JPEG2000" and image.mode in ("RGBA", "LA"):
        count = len(image.mode)
        if not _last_is_alpha(data, count):
            raise Refused(f"the last of its {count} bands has no stated meaning: {RULE}")


def require_tiff_bands(tags: TiffImagePlugin.ImageFileDirectory_v2) -> None:
    """Raise Refused unless the bands of a TIFF are grey or colours, with alpha or without."""
    (photometric,) = numbers(tags, PHOTOMETRIC)[:1] or (1,)
    colours = COLOURS.get(photometric, 1)
    (count,) = numbers(tags, SAMPLES_PER_PIXEL)[:1] or (colours,)
    extra = numbers(tags, EXTRA_SAMPLES)
    if count > colours + 1 or (count == colours + 1 and photometric == CMYK):
        raise Refused(f"it has {count} bands: {RULE}")
    if count == colours + 1 and extra[:1] not in [(kind,) for kind in ALPHA]:
        raise Refused(f"the last of its {count} bands has no stated meaning (tag ExtraSamples): {RULE}")


def _last_is_alpha(jp2: bytes, count: int) -> bool:
    """Return whether the channel definitions (box cdef) of a JPEG 2000 file call the last of `count` bands alpha."""
    start = jp2.find(b"cdef", 0, max(jp2.find(b"jp2c"), 0))
    if start < 0:
        return False
    entries = jp2[start + 6 : start + 6 + 6 * int.from_bytes(jp2[start + 4 : start + 6])]
    kinds = {
        int.from_bytes(entries[at : at + 2]): int.from_bytes(entries[at + 2 : at + 4])
        for at in range(0, len(entries), 6)
    }
    return kinds.get(count - 1) in ALPHA
