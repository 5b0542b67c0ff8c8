"""The tiles that large pictures are cut into, which a gallery records."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import click

from spade_index.errors import InputError
from spade_index.settings import LARGEST_TILE, LEAST_TILE, MOST_OVERLAP, OVERLAP, ExtractionSettings

from .options import whole_option
from .progress import Progress
from .values import RealRange

if TYPE_CHECKING:  # both take long to import
    from spade_index.gallery.reader import Gallery
    from spade_index.gallery.store.quantizer import Quantized
    from spade_index.images.files import ImageFile


SHRUNK = 6  # times, from which it is said


@dataclass(frozen=True)
class TileOptions:
    """Options of cutting pictures; None: not cut, or as the gallery."""

    tile: Annotated[
        int | None,
        whole_option(
            "--tile",
            None,
            "Cut pictures into tiles whose longer edge has this many pixels, and compare tiles [whole pictures]",
            least=LEAST_TILE,
            most=LARGEST_TILE,
        ),
    ]
    overlap: Annotated[
        float | None,
        click.option(
            "--overlap",
            type=RealRange(0, MOST_OVERLAP),
            help=f"Share of a tile's edge that neighbouring tiles have in common, at least [{OVERLAP:g}]",
        ),
    ]
    whole: Annotated[
        bool,
        click.option(
            "--whole",
            is_flag=True,
            help="Beside its tiles, compare each picture as a whole, too, for defects that are larger than a tile.",
        ),
    ]

    def given(self, *, cropped: bool = False) -> dict[str, Any]:
        """Return the tiles of a new gallery, as fields of its preprocessing.

        Raises UsageError for options that do not go together; `cropped` says that others crop images.
        """
        if self.tile is None:
            if self.overlap is not None:
                raise click.UsageError("--overlap is that of tiles: give --tile, too")
            if self.whole:
                raise click.UsageError("without tiles, pictures are compared as wholes: --whole goes with --tile")
            return {}
        if cropped:
            raise click.UsageError(
                "--tile shows all of a picture: it cannot be combined with --resize or --preset paper, which crop"
            )
        overlap = OVERLAP if self.overlap is None else self.overlap
        return {"tile": self.tile, "overlap": overlap, "whole": self.whole}

    @staticmethod
    def say_size(files: "Iterable[ImageFile]", settings: ExtractionSettings, maps: "str | Quantized | None") -> None:
        """Say what becomes of the first of these pictures in a new gallery.

        If it is cut, that is the number of its tiles and what they take on disk; if it is not, whether it is shrunk so
        much that small defects are lost. `maps` is the codec that was asked for.
        """
        from spade_index.gallery.store.storage import NEW_MAPS, MapStorage
        from spade_index.gallery.write.opening import asked_codec
        from spade_index.images.tiles import pieces_of

        file = next(iter(files), None)
        size = None if file is None else _size(file)
        if file is None or size is None:
            return
        how = settings.preprocessing
        picture = f"{file.id} of {size[0]}x{size[1]} pixels"
        if how.tile is not None:
            tiles = len(pieces_of(*size, how))
            codec = asked_codec(maps)
            maps_of = (MapStorage(codec) if codec else NEW_MAPS).map_bytes(settings)
            megabytes = tiles * (maps_of + 4 * settings.pooled_dim) / 1e6
            Progress.note(f"{picture} is {tiles:,} tiles, which take {megabytes:,.1f} MB")
            return
        shrunk = min(size) / how.resize if how.resize else max(size) / max(how.input_size)
        if shrunk >= SHRUNK:
            Progress.say(
                f"{picture} is shrunk {shrunk:.0f} times, so defects of about {shrunk:.0f} pixels are lost: "
                f"--tile {max(how.input_size)} keeps them"
            )

    def require_equal(self, gallery: "Gallery") -> None:
        """Raise InputError if tiles are given that are not the gallery's."""
        recorded = gallery.settings.preprocessing
        if self.tile is not None and self.tile != recorded.tile:
            built = "without --tile" if recorded.tile is None else f"with --tile {recorded.tile}"
            raise InputError(f"{gallery.path}: was built {built}, not {self.tile}")
        if self.overlap is not None and self.overlap != recorded.overlap:
            built = "without --tile" if recorded.tile is None else f"with --overlap {recorded.overlap:g}"
            raise InputError(f"{gallery.path}: was built {built}, not with --overlap {self.overlap:g}")
        if self.whole and not recorded.whole:
            raise InputError(f"{gallery.path}: was built without --whole")


def _size(file: "ImageFile") -> tuple[int, int] | None:
    """Return width and height of a picture, None if it cannot be read."""
    from spade_index.images.formats import open_image

    try:
        with open_image(file.read()) as image:
            return image.size
    except Exception:  # Pillow raises exceptions of many kinds on damaged files; adding the image names it
        return None
