"""Read ground-truth masks: what is not zero is defective (see `mask_pixels`).

- A mask may be a folder of masks (MVTec LOCO): a pixel is defective if one of them says so.
- A mask without an orientation of its own (EXIF) that has the size of its image's stored pixels is turned as the image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from spade_index.errors import InputError

from .decode import TURNS
from .files import SUFFIXES, MaskFile, opened
from .formats import FORMATS
from .geometry import Geometry
from .mask_pixels import mask_pixels, orientation_in, unreadable
from .passed_over import is_debris
from .workers import Call, Held, Plain, answer_or_refuse

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


def marks_anything(path: Path) -> bool:
    """Return whether a mask marks a pixel. Raises InputError if it cannot be decoded."""
    return bool(mask_pixels(MaskFile.at(path)).marked.any())


def require_fit(path: Path, image: Path) -> None:
    """Raise InputError if a mask, or one of a folder, cannot be opened or has not the size of its image.

    It reads the heads of the files only. An image that cannot be opened is left to whoever decodes it.
    """
    answer_or_refuse(Call(_require_fit, str(path), Held(b""), (path, image)))


def _require_fit(read: Callable[[], bytes], path: Path, image: Path) -> Plain:
    _require_same_size(path, image)
    return {}, []


def _require_same_size(path: Path, image: Path) -> None:
    try:
        with opened(image) as data, Image.open(data, formats=FORMATS) as there:
            size, orientation = there.size, orientation_in(there) or 1
    except Exception:  # Pillow raises exceptions of many kinds on damaged files
        return
    upright = size[::-1] if orientation >= 5 else size
    for file in _files(path):
        try:
            with opened(file) as data, Image.open(data, formats=FORMATS) as mask:
                _turn(file, mask.size, orientation_in(mask), upright, orientation)
        except InputError:
            raise
        except Exception as error:
            raise unreadable(file, error) from error


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
    found = mask_pixels(MaskFile.at(path))
    mask = Image.fromarray(found.marked)
    turn = _turn(path, mask.size, found.orientation, (geometry.width, geometry.height), orientation)
    if turn is not None:
        mask = mask.transpose(turn)
    fitted = mask.convert("L").resize(size[::-1], Image.Resampling.NEAREST, box=geometry.box)
    return Marked(path, np.asarray(fitted) > 0, found.highest, int(found.marked.sum()), found.marked.size, found.oddity)
