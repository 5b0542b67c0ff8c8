"""Read ground-truth masks: what is not zero is defective.

- Grey levels of any depth (1 to 32 bits, floating point): a stored value that is not 0. Palettes: an index that is not
  0, whatever its colour. Colours: a pixel with a band that is not 0.
- Alpha: a transparent pixel is normal. A visible one is defective if its colour is not black; where every visible pixel
  is black, as when a tool paints on a transparent page, alpha alone decides.
- JPEG and lossy WebP, which blur zero: from half of the highest value on.
- A mask may be a folder of masks (MVTec LOCO): a pixel is defective if one of them says so.
- A mask without an orientation of its own (EXIF) that has the size of its image's stored pixels is turned as the image.
"""

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from spade_index.errors import ImageError, InputError

from .decode import ORIENTATION, TURNS, WITH_ALPHA
from .deep_files import WHITE_IS_ZERO, read_deep
from .files import SUFFIXES, opened, read_any
from .formats import FORMATS, open_image
from .geometry import Geometry
from .passed_over import is_debris
from .shapes import has_shape, require_shape
from .sound import require_sound
from .tiff import PHOTOMETRIC
from .workers import Answer, Call, Held, Plain, shared_pool

Size = tuple[int, int]


@dataclass(frozen=True)
class Marked:
    """What one mask file marks as defective."""

    path: Path
    pixels: np.ndarray  # bool [H, W], resized and cropped as the backbone's input is
    value: int  # the highest value in the file, which names the kind of defect in MVTec LOCO
    area: int  # defective pixels of the file, before it is resized and cropped
    total: int  # pixels of the file
    oddity: str | None = None  # what is strange about the file itself

    def strange(self) -> str | None:
        """Return in words what is strange about the mask of a defective image, with its name; None for nothing."""
        if self.oddity is not None:
            return f"{self.path}: {self.oddity}"
        if self.area == 0:
            return f"{self.path}: marks no pixel, though its image is listed as defective"
        if self.area == self.total:
            return f"{self.path}: marks every pixel"
        if not self.pixels.any():
            height, width = self.pixels.shape
            return f"{self.path}: nothing of its mark ({self.area} pixels) is left at {width}x{height}"
        return None


def read_mask(path: Path | None, geometry: Geometry, size: tuple[int, int], orientation: int = 1) -> np.ndarray:
    """Read the mask of an image, resized and cropped as the backbone's input is.

    Args:
        path: of the mask, or of a folder of masks; None for an image without defects.
        geometry: of the image that the mask belongs to.
        size: (H, W) of the result.
        orientation: EXIF's orientation of that image, 1 to 8.

    Returns:
        bool [H, W], True where defective, resized by nearest neighbour.

    Raises:
        InputError: a file cannot be decoded, or does not have the size of its image.
    """
    return union(() if path is None else read_marks(path, geometry, size, orientation), size)


def union(marks: Sequence[Marked], size: tuple[int, int]) -> np.ndarray:
    """Return bool [H, W], True where one of the marks is."""
    defective = np.zeros(size, bool)
    for marked in marks:
        defective |= marked.pixels
    return defective


def read_marks(path: Path, geometry: Geometry, size: tuple[int, int], orientation: int = 1) -> list[Marked]:
    """Return what a mask, or each mask of a folder, marks; arguments and errors as for `read_mask`."""
    return [_read(file, geometry, size, orientation) for file in _files(path)]


def orientation_of(data: bytes) -> int:
    """Return EXIF's orientation of an image file, 1 to 8; 1 where there is none."""
    try:
        orientation: int = shared_pool().answer(Call(_head, "an image", Held(data))).facts["orientation"]
    except ImageError:  # whoever decodes the image says what is wrong
        return 1
    return orientation or 1


def _head(read: Callable[[], bytes]) -> Plain:
    try:
        with open_image(read()) as image:
            return {"orientation": _orientation(image)}, []
    except Exception:  # Pillow raises exceptions of many kinds on damaged files
        return {"orientation": None}, []


def marks_anything(path: Path) -> bool:
    """Return whether a mask marks a pixel. Raises InputError if it cannot be decoded."""
    return bool(_decode(path)[0].any())


def read_whole_mask(path: Path) -> np.ndarray:
    """Return what a mask marks, bool [H, W]: all of it, upright by its own orientation. Raises InputError."""
    marked, _, own, _ = _decode(path)
    turn = TURNS.get(own or 1)
    return marked if turn is None else np.asarray(Image.fromarray(marked).transpose(turn))


def read_fitting_mask(path: Path, upright: Size, orientation: Callable[[], int]) -> np.ndarray:
    """Return what a mask marks, bool [H, W]: all of it, upright as its image, whose size or shape it must have.

    Args:
        path: of the mask.
        upright: width and height of its image.
        orientation: returns EXIF's orientation of the image.

    Raises:
        InputError: it cannot be decoded, or has another shape.
    """
    marked, _, own, _ = _decode(path)
    size = marked.shape[1], marked.shape[0]
    if own is None and (turned := orientation()) != 1:
        own = turned if has_shape(size, upright[::-1] if turned >= 5 else upright) else None
    require_shape(path, size[::-1] if own is not None and own >= 5 else size, upright)
    turn = TURNS.get(own or 1)
    return marked if turn is None else np.asarray(Image.fromarray(marked).transpose(turn))


def require_fit(path: Path, image: Path) -> None:
    """Raise InputError if a mask, or one of a folder, cannot be opened or has not the size of its image.

    It reads the heads of the files only. An image that cannot be opened is left to whoever decodes it.
    """
    _apart(Call(_require_fit, str(path), Held(b""), (path, image)))


def _require_fit(read: Callable[[], bytes], path: Path, image: Path) -> Plain:
    _require_same_size(path, image)
    return {}, []


def _require_same_size(path: Path, image: Path) -> None:
    try:
        with opened(image) as data, Image.open(data, formats=FORMATS) as there:
            size, orientation = there.size, _orientation(there) or 1
    except Exception:  # Pillow raises exceptions of many kinds on damaged files
        return
    upright = size[::-1] if orientation >= 5 else size
    for file in _files(path):
        try:
            with opened(file) as data, Image.open(data, formats=FORMATS) as mask:
                _turn(file, mask.size, _orientation(mask), upright, orientation)
        except InputError:
            raise
        except Exception as error:
            raise _unreadable(file, error) from error


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(
        file
        for file in path.iterdir()
        if file.suffix.lower() in SUFFIXES and file.is_file() and not is_debris(file.name)
    )
    if not files:
        raise InputError(f"{path}: no masks in this folder")
    return files


def _turn(path: Path, size: Size, own: int | None, upright: Size, orientation: int) -> Image.Transpose | None:
    """Return how a mask of this size (width, height) and orientation is turned. Raises InputError if it does not fit.

    `upright` is the size of its image, after the image was turned from its `orientation`.
    """
    if own is None and size == (upright[::-1] if orientation >= 5 else upright):
        own = orientation
    turned = size[::-1] if own is not None and own >= 5 else size
    if turned != upright:
        there, wanted = (f"{width}x{height}" for width, height in (turned, upright))
        raise InputError(f"{path}: is {there} pixels, but its image is {wanted}")
    return TURNS.get(own or 1)


def _read(path: Path, geometry: Geometry, size: tuple[int, int], orientation: int) -> Marked:
    defective, value, own, oddity = _decode(path)
    mask = Image.fromarray(defective)
    turn = _turn(path, mask.size, own, (geometry.width, geometry.height), orientation)
    if turn is not None:
        mask = mask.transpose(turn)
    fitted = mask.convert("L").resize(size[::-1], Image.Resampling.NEAREST, box=geometry.box)
    return Marked(path, np.asarray(fitted) > 0, value, int(defective.sum()), defective.size, oddity)


def _decode(path: Path) -> tuple[np.ndarray, int, int | None, str | None]:
    """Return defective pixels as stored, bool [H, W], the highest value, an orientation if it has one, an oddity."""
    pool = shared_pool()
    answer = _apart(Call(_decode_here, str(path), partial(read_any, os.fspath(path)), (path, pool.limits.pixels)))
    facts = answer.facts
    defective = np.frombuffer(answer.parts[0], bool).reshape(facts["size"])
    return defective, facts["highest"], facts["orientation"], facts["oddity"]


def _apart(call: Call) -> Answer:
    """Return the answer of a decoding process. Raises InputError: a mask is part of a dataset, and not left out."""
    try:
        return shared_pool().answer(call)
    except ImageError as error:
        raise InputError(str(error)) from error


def _decode_here(read: Callable[[], bytes], path: Path, pixels: int) -> Plain:
    try:
        data = read()
        require_sound(data)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > pixels:
                raise InputError(f"{path}: {image.width}x{image.height} pixels is over the limit of {pixels:,}")
            levels = _levels(image, data)  # [H, W]
            lossy = image.format in ("JPEG", "MPO") or b"VP8 " in data[12:64]
            if np.isnan(levels).any():
                raise InputError(f"{path}: some of its values are not numbers (NaN): write 0 where normal, else 1")
            highest = levels.max() if levels.size else 0
            defective = levels > highest / 2 if lossy and highest > 0 else levels != 0
            facts = {"size": defective.shape, "highest": int(highest), "orientation": _orientation(image)}
            return facts | {"oddity": _oddity(image, defective)}, [defective.tobytes()]
    except (InputError, MemoryError):
        raise
    except Exception as error:  # Pillow raises exceptions of many kinds on damaged files
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    if isinstance(error, OSError) and error.strerror:
        return InputError(f"{path}: cannot be read ({error.strerror})")
    reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error) or repr(error)
    return InputError(f"{path}: cannot be decoded ({' '.join(reason.split())})")


def _orientation(image: Image.Image) -> int | None:
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
