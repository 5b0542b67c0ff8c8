"""How many images a gallery has, in words."""

from typing import TYPE_CHECKING

from spade_index.wording import number_of

if TYPE_CHECKING:  # it takes long to import
    from spade_index.gallery.reader import Gallery


def counted(gallery: "Gallery", count: int | None = None) -> str:
    """Return a number of a gallery's images, by default of all: `12 images`, or `4,608 tiles` of pictures."""
    number = len(gallery) if count is None else count
    return number_of(number, "image" if gallery.settings.preprocessing.tile is None else "tile")
