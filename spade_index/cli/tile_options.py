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
    from spade_index.images.files import ImageFile


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

    def given(self, *, cropped: bool = False) -> dict[str, Any]:
        """Return the tiles of a new gallery, as fields of its preprocessing.

        Raises UsageError for options that do not go together; `cropped` says that others crop images.
        """
        if self.tile is None:
            if self.overlap is not None:
                raise click.UsageError("--overlap is that of tiles: give --tile, too")
            return {}
        if cropped:
            raise click.UsageError(
                "--tile shows all of a picture: it cannot be combined with --resize or --preset paper, which crop"
            )
        return {"tile": self.tile, "overlap": OVERLAP if self.overlap is None else self.overlap}

    @staticmethod
    def note_cost(files: "Iterable[ImageFile]", settings: ExtractionSettings) -> None:
        """Say on a terminal how many tiles the first of these pictures is, and what they take on disk."""
        from spade_index.images.formats import open_image
        from spade_index.images.tiles import tile_boxes

        file = next(iter(files), None)
        if file is None or settings.preprocessing.tile is None:
            return
        try:
            with open_image(file.read()) as image:
                width, height = image.size
        except Exception:  # Pillow raises exceptions of many kinds on damaged files; adding the image names it
            return
        tiles = len(tile_boxes(width, height, settings.preprocessing))
        size = tiles * (settings.map_bytes + 4 * settings.pooled_dim) / 1e6
        Progress.note(f"{file.id} of {width}x{height} pixels is {tiles:,} tiles, which take {size:,.1f} MB")

    def require_equal(self, gallery: "Gallery") -> None:
        """Raise InputError if tiles are given that are not the gallery's."""
        recorded = gallery.settings.preprocessing
        if self.tile is not None and self.tile != recorded.tile:
            built = "without --tile" if recorded.tile is None else f"with --tile {recorded.tile}"
            raise InputError(f"{gallery.path}: was built {built}, not {self.tile}")
        if self.overlap is not None and self.overlap != recorded.overlap:
            built = "without --tile" if recorded.tile is None else f"with --overlap {recorded.overlap:g}"
            raise InputError(f"{gallery.path}: was built {built}, not with --overlap {self.overlap:g}")
