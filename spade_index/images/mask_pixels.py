"""Decode masks: what is not zero is marked.

- Grey levels of any depth (1 to 32 bits, floating point): a stored value that is not 0. Palettes: an index that is not
  0, whatever its colour. Colours: a pixel with a band that is not 0.
- Alpha: a transparent pixel is not marked. A visible one is if its colour is not black; where every visible pixel
  is black, as when a tool paints on a transparent page, alpha alone decides.
- JPEG and lossy WebP, which blur zero: from half of the highest value on.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from spade_index.errors import ImageError, InputError

from .damage import require_undamaged
from .decode import ORIENTATION, TURNS, WITH_ALPHA
from .deep_files import WHITE_IS_ZERO, read_deep
from .files import MaskFile
from .formats import FORMATS, open_image
from .shapes import Size, has_shape, require_shape
from .sound import require_sound
from .tiff import PHOTOMETRIC
from .workers import Call, DecoderPool, Held, Plain, answer_or_refuse, shared_pool
from .workers.calls import WRONG


@dataclass(frozen=True)
class MaskPixels:
    """A decoded mask."""

    marked: np.ndarray  # bool [H, W], as stored
    highest: int  # value in the file
    orientation: int | None  # EXIF's, 1 to 8; None if it has none
    oddity: str | None  # what is strange about the file itself


def mask_pixels(mask: MaskFile, decoders: DecoderPool | None = None) -> MaskPixels:
    """Decode a mask in another process, one of `decoders`, by default the program's own. Raises InputError."""
    pool = decoders or shared_pool()
    answer = answer_or_refuse(Call(_decode_here, mask.path, mask.read, (mask.path, pool.limits.pixels)), pool)
    facts = answer.facts
    try:
        marked = np.frombuffer(answer.parts[0], bool).reshape(facts["size"])
        return MaskPixels(marked, facts["highest"], facts["orientation"], facts["oddity"])
    except WRONG as error:
        raise InputError(f"{mask.path}: cannot be decoded (its decoder answered {error!r})") from error


def orientation_of(data: bytes, decoders: DecoderPool | None = None) -> int:
    """Return EXIF's orientation of an image file, 1 to 8; 1 where there is none."""
    try:
        orientation: int = (decoders or shared_pool()).answer(Call(_head, "an image", Held(data))).facts["orientation"]
    except ImageError:  # whoever decodes the image says what is wrong
        return 1
    return orientation or 1


def _head(read: Callable[[], bytes]) -> Plain:
    try:
        with open_image(read()) as image:
            return {"orientation": orientation_in(image)}, []
    except Exception:  # Pillow raises exceptions of many kinds on damaged files
        return {"orientation": None}, []


def read_whole_mask(mask: MaskFile) -> np.ndarray:
    """Return what a mask marks, bool [H, W]: all of it, upright by its own orientation. Raises InputError."""
    found = mask_pixels(mask)
    return _turned(found.marked, found.orientation)


def read_fitting_mask(
    mask: MaskFile, upright: Size, orientation: Callable[[], int], decoders: DecoderPool | None = None
) -> np.ndarray:
    """Return what a mask marks, bool [H, W]: all of it, upright as its image, whose size or shape it must have.

    Args:
        mask: the mask.
        upright: width and height of its image.
        orientation: returns EXIF's orientation of the image.
        decoders: processes that decode, by default the program's own.

    Raises:
        InputError: it cannot be decoded, or has another shape.
    """
    found = mask_pixels(mask, decoders)
    size, own = (found.marked.shape[1], found.marked.shape[0]), found.orientation
    if own is None and (turned := orientation()) != 1:
        own = turned if has_shape(size, upright[::-1] if turned >= 5 else upright) else None
    require_shape(mask.path, size[::-1] if own is not None and own >= 5 else size, upright)
    return _turned(found.marked, own)


def _turned(marked: np.ndarray, orientation: int | None) -> np.ndarray:
    turn = TURNS.get(orientation or 1)
    return marked if turn is None else np.asarray(Image.fromarray(marked).transpose(turn))


def _decode_here(read: Callable[[], bytes], path: str, pixels: int) -> Plain:
    try:
        data = read()
        require_sound(data)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > pixels:
                raise InputError(f"{path}: {image.width}x{image.height} pixels is over the limit of {pixels:,}")
            require_undamaged(image, data)
            levels = _levels(image, data)  # [H, W]
            lossy = image.format in ("JPEG", "MPO") or b"VP8 " in data[12:64]
            if not np.isfinite(levels).all():
                raise InputError(f"{path}: some of its values are NaN or infinite: write 0 where normal, else 1")
            highest = levels.max() if levels.size else 0
            defective = levels > highest / 2 if lossy and highest > 0 else levels != 0
            facts = {"size": defective.shape, "highest": int(highest), "orientation": orientation_in(image)}
            return facts | {"oddity": _oddity(image, defective)}, [defective.tobytes()]
    except (InputError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: refused, over the limit of {pixels:,} pixels") from error
    except Exception as error:  # Pillow raises exceptions of many kinds on damaged files
        raise unreadable(path, error) from error


def unreadable(path: str | Path, error: Exception) -> InputError:
    """Return in words why a mask cannot be decoded."""
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: is not there")
    if isinstance(error, OSError) and error.strerror:
        return InputError(f"{path}: cannot be read ({error.strerror})")
    reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error) or repr(error)
    return InputError(f"{path}: cannot be decoded ({' '.join(reason.split())})")


def orientation_in(image: Image.Image) -> int | None:
    """Return EXIF's orientation of an image, 1 to 8; None where there is none."""
    found = image.getexif().get(ORIENTATION)
    return int(found) if isinstance(found, int) and 1 <= found <= 8 else None


def _levels(image: ImageFile.ImageFile, data: bytes) -> np.ndarray:
    """Return one number for each pixel of an image just opened from `data`, [H, W]: 0 where it is normal."""
    deep = read_deep(image, data)
    if deep is not None:
        return _of_bands(deep.values, alpha=deep.mode in WITH_ALPHA)
    image.load()
    if image.mode in WITH_ALPHA:
        return _of_bands(np.asarray(image if image.mode == "LA" else image.convert("RGBA")), alpha=True)
    levels = np.asarray(image.convert("RGB") if image.mode in ("CMYK", "YCbCr", "LAB", "HSV") else image)
    if levels.dtype == bool:
        levels = levels.astype(np.uint8)
    return levels.max() - levels if _shows_zero_white(image) and image.mode in ("1", "L") else _of_bands(levels)


def _of_bands(values: np.ndarray, *, alpha: bool = False) -> np.ndarray:
    """Return [H, W] of values [H, W] or [H, W, C]; the last of C may be an alpha channel."""
    if values.ndim == 2:
        return values
    if not alpha:
        return values.max(2)
    last, colour = values[..., -1], values[..., :-1].max(2)
    seen = np.where(last > 0, colour, 0)
    opaque = last.size == 0 or last.min() == np.iinfo(last.dtype).max
    return seen if seen.any() or opaque else last


def _shows_zero_white(image: Image.Image) -> bool:
    """Return whether zero is white in a TIFF file; Pillow inverts its pixels."""
    return isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO


def _oddity(image: Image.Image, defective: np.ndarray) -> str | None:
    if _shows_zero_white(image):
        return "shows zero, which is normal, as white: is it inverted?"
    if image.mode != "P" or not defective.any() or defective.all():
        return None
    colours = np.asarray(image.convert("RGB")).max(2)
    if colours[~defective].min() > 0 and (colours[defective] == 0).any():
        return "its palette shows index 0, which is normal, brighter than what it marks: is it inverted?"
    return None
