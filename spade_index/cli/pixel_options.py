"""The range of the images' pixels, which a gallery records."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import click

from spade_index.errors import InputError
from spade_index.settings import BITS, Preprocessing

from .progress import Progress
from .values import AnyReal

if TYPE_CHECKING:  # both take long to import
    from spade_index.gallery.reader import Gallery
    from spade_index.images.files import ImageFile

FIELDS = ("bits", "pixel_range")
AUTO = "auto"  # the bits are found in a sample of the images


@dataclass(frozen=True)
class PixelOptions:
    """Options of the range of pixels; None: found in the images, or the gallery's."""

    bits: Annotated[
        str | None,
        click.option(
            "--bits",
            type=click.Choice([*map(str, BITS), AUTO]),
            help=f"That pixels stored in 16 bits use; as the gallery, or found in a sample of the images [{AUTO}]",
        ),
    ]
    pixel_range: Annotated[
        tuple[float, float] | None,
        click.option(
            "--pixel-range",
            type=(AnyReal(), AnyReal()),
            metavar="LOW HIGH",
            help="Values that are black and white, of pixels with more than 8 bits, signed or floating-point ones.",
        ),
    ]

    def found_in(self, files: "Iterable[ImageFile]") -> dict[str, Any]:
        """Return the range for a new gallery of these images, as fields of its preprocessing, and say what it is.

        Raises InputError for values that cannot be, and where every image needs an explicit range.
        """
        from spade_index.images.ranges import find_bits

        if self.pixel_range is not None or self.bits not in (None, AUTO):
            return self._given()
        found = find_bits(files)
        if found.images:
            Progress.say(found.why)
        return {"bits": found.bits}

    def require_equal(self, gallery: "Gallery") -> None:
        """Raise InputError if a range is given that is not the gallery's."""
        recorded = gallery.settings.preprocessing
        for name, value in self._given().items():
            if value != (of_gallery := getattr(recorded, name)):
                option = "--" + name.replace("_", "-")
                raise InputError(f"{gallery.path}: was built with {option} {_text(of_gallery)}, not {_text(value)}")

    def _given(self) -> dict[str, Any]:
        """Return the fields of the preprocessing that were given."""
        bits = None if self.bits is None or self.bits == AUTO else int(self.bits)
        given = Preprocessing(bits=bits, pixel_range=self.pixel_range)  # raises for values that cannot be
        return {name: value for name in FIELDS if (value := getattr(given, name)) is not None}


def _text(value: int | tuple[float, float] | None) -> str:
    return " ".join(f"{number:g}" for number in value) if isinstance(value, tuple) else str(value)
