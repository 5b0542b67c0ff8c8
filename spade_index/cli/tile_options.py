"""The tiles that large pictures are cut into, which a gallery records."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import click

from spade_index.errors import InputError
from spade_index.settings import LARGEST_TILE, LEAST_TILE, MOST_OVERLAP, OVERLAP

from .options import whole_option
from .values import RealRange

if TYPE_CHECKING:  # it takes long to import
    from spade_index.gallery.reader import Gallery


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

    def require_equal(self, gallery: "Gallery") -> None:
        """Raise InputError if tiles are given that are not the gallery's."""
        recorded = gallery.settings.preprocessing
        if self.tile is not None and self.tile != recorded.tile:
            built = "without --tile" if recorded.tile is None else f"with --tile {recorded.tile}"
            raise InputError(f"{gallery.path}: was built {built}, not {self.tile}")
        if self.overlap is not None and self.overlap != recorded.overlap:
            built = "without --tile" if recorded.tile is None else f"with --overlap {recorded.overlap:g}"
            raise InputError(f"{gallery.path}: was built {built}, not with --overlap {self.overlap:g}")
