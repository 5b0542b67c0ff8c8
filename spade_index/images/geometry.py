"""The part of an original image that the backbone's input shows."""

from dataclasses import dataclass

from spade_index.settings import Preprocessing

from .interest import RegionOfInterest
from .tiles import piece_of


@dataclass(frozen=True)
class Geometry:
    """The part of the original image (upright: EXIF rotation applied) that the backbone's input shows."""

    width: int  # of the original, pixels
    height: int
    box: tuple[float, float, float, float]  # left, top, right, bottom of that part, in original pixels
    whole: bool = False  # whether it is a picture as a whole, beside its tiles
    region: RegionOfInterest | None = None  # the original's own, where its source has a mask for each image

    @classmethod
    def of_size(cls, width: int, height: int) -> "Geometry":
        """Return all of an original."""
        return cls(width, height, (0.0, 0.0, float(width), float(height)))

    def to_original(self, x: float, y: float) -> tuple[int, int]:
        """Return column and row of the original's pixel at a place of the input, in fractions of its edges."""
        left, top, right, bottom = self.box
        column, row = left + x * (right - left), top + y * (bottom - top)
        return min(max(int(column), 0), self.width - 1), min(max(int(row), 0), self.height - 1)

    def to_input(self, column: int, row: int) -> tuple[float, float]:
        """Return the place of a pixel's centre in the input, as fractions, outside of 0..1 if it is not there."""
        left, top, right, bottom = self.box
        return (column + 0.5 - left) / (right - left), (row + 0.5 - top) / (bottom - top)


def covered(width: int, height: int, how: Preprocessing) -> Geometry:
    """Return the part of an image of this size, in pixels, that the backbone's input shows."""
    if how.resize is None:
        return Geometry.of_size(width, height)
    scale = min(width, height) / how.resize  # original pixels per resized pixel
    crop_height, crop_width = (edge * scale for edge in how.input_size)
    left, top = (width - crop_width) / 2, (height - crop_height) / 2
    right, bottom = (
        min(left + crop_width, float(width)),
        min(top + crop_height, float(height)),
    )  # rounding may pass the edge
    return Geometry(width, height, (max(left, 0.0), max(top, 0.0), right, bottom))


def place_of(id: str, width: int, height: int, how: Preprocessing) -> Geometry:
    """Return the part of a gallery's image, or of the picture that it is a tile of, that the backbone's input shows."""
    if how.tile is None:
        return covered(width, height, how)
    return Geometry(width, height, *piece_of(id, width, height, how))
