"""Read ground-truth masks: what is not zero is defective.

- Grey levels of any depth (1 to 32 bits, floating point): a value that is not 0. Palettes: an index that is not 0,
  whatever its colour. Colours: a pixel with a band that is not 0.
- Alpha: a transparent pixel is normal. A visible one is defective if its colour is not black; where every visible pixel
  is black, as when a tool paints on a transparent page, alpha alone decides.
- JPEG and lossy WebP, which blur zero: from half of the highest value on.
- A mask may be a folder of masks (MVTec LOCO): a pixel is defective if one of them says so.
- A mask without an orientation of its own (EXIF) that has the size of its image's stored pixels is turned as the image.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from spade_index.errors import InputError

from .decode import MAX_PIXELS, ORIENTATION, TURNS, Geometry
from .files import SUFFIXES
from .formats import FORMATS

MASK_SUFFIXES = SUFFIXES
ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")


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


def union(marks: "list[Marked] | tuple[Marked, ...]", size: tuple[int, int]) -> np.ndarray:
    """Return bool [H, W], True where one of the marks is."""
    defective = np.zeros(size, bool)
    for marked in marks:
        defective |= marked.pixels
    return defective


def read_marks(path: Path, geometry: Geometry, size: tuple[int, int], orientation: int = 1) -> list[Marked]:
    """Return what a mask, or each mask of a folder, marks; arguments and errors as for `read_mask`."""
    if not path.is_dir():
        return [_read(path, geometry, size, orientation)]
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise InputError(f"{path}: no masks in this folder")
    return [_read(file, geometry, size, orientation) for file in files]


def orientation_of(data: bytes) -> int:
    """Return EXIF's orientation of an image file, 1 to 8; 1 where there is none."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # whoever decodes the image says what is wrong
        return 1
    return found if found in TURNS else 1


def marks_anything(path: Path) -> bool:
    """Return whether a mask marks a pixel. Raises InputError if it cannot be decoded."""
    return bool(_decode(path)[0].any())


def _read(path: Path, geometry: Geometry, size: tuple[int, int], orientation: int) -> Marked:
    defective, value, own, oddity = _decode(path)
    mask = Image.fromarray(defective)
    upright = (geometry.width, geometry.height)
    stored = upright[::-1] if orientation >= 5 else upright
    if own is None and mask.size == stored:
        own = orientation
    if own in TURNS:
        mask = mask.transpose(TURNS[own])
    if mask.size != upright:
        there, wanted = (f"{width}x{height}" for width, height in (mask.size, upright))
        raise InputError(f"{path}: is {there} pixels, but its image is {wanted}")
    fitted = mask.convert("L").resize(size[::-1], Image.Resampling.NEAREST, box=geometry.box)
    return Marked(path, np.asarray(fitted) > 0, value, int(defective.sum()), defective.size, oddity)


def _decode(path: Path) -> tuple[np.ndarray, int, int | None, str | None]:
    """Return defective pixels as stored, bool [H, W], the highest value, an orientation if it has one, an oddity."""
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"{path}: {image.width}x{image.height} pixels is over the limit of {MAX_PIXELS:,}")
            image.load()
            levels = _levels(image)  # [H, W]
            lossy = image.format in ("JPEG", "MPO") or b"VP8 " in data[12:64]
            highest = levels.max() if levels.size else 0
            defective = levels > highest / 2 if lossy and highest > 0 else levels != 0
            return defective, int(highest), image.getexif().get(ORIENTATION), _oddity(image, defective)
    except InputError:
        raise
    except Exception as error:  # Pillow raises exceptions of many kinds on damaged files
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error) or repr(error)
        raise InputError(f"{path}: cannot be decoded ({' '.join(reason.split())})") from error


def _levels(image: Image.Image) -> np.ndarray:
    """Return one number for each pixel [H, W], which is 0 where it is normal."""
    if image.mode in ALPHA:
        bands = np.asarray(image if image.mode == "LA" else image.convert("RGBA"))
        alpha, colour = bands[..., -1], bands[..., :-1].max(2)
        seen = np.where(alpha > 0, colour, 0)
        return seen if seen.any() else alpha * np.uint8(alpha.min(initial=255) < 255)
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    levels = np.asarray(image)
    if levels.dtype == bool:
        levels = levels.astype(np.uint8)
    return levels if levels.ndim == 2 else levels.max(2)


def _oddity(image: Image.Image, defective: np.ndarray) -> str | None:
    if image.mode != "P" or not defective.any() or defective.all():
        return None
    colours = np.asarray(image.convert("RGB")).max(2)
    if colours[~defective].min() > 0 and (colours[defective] == 0).any():
        return "its palette shows index 0, which is normal, brighter than what it marks: is it inverted?"
    return None
