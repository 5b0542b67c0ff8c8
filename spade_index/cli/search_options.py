"""The options of a search."""

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

import click

from spade_index.settings import (
    IMAGE_SCORES,
    LEVEL_WEIGHTS,
    MAPS,
    MODES,
    PAPER_SEARCH,
    PIXEL_PRECISIONS,
    ImageScore,
    Maps,
    SearchSettings,
)

from .parsing import numbers

DEFAULT = SearchSettings  # whose class attributes are the defaults in the help

maps_option = click.option(
    "--maps",
    type=click.Choice(MAPS),
    help=f"Score maps of all images, of those above the threshold, or of none [{DEFAULT.maps}]",
)


@dataclass(frozen=True)
class SearchOptions:
    """Options of searching and scoring; None: the preset's value, or the default."""

    score_neighbours: Annotated[
        int | None,
        click.option("--score-neighbours", type=int, help=f"K of the pooled image score [{DEFAULT.score_neighbours}]"),
    ]
    gallery_neighbours: Annotated[
        int | None,
        click.option(
            "--gallery-neighbours",
            type=int,
            help=f"K images that pixels are searched in [{DEFAULT.gallery_neighbours}]",
        ),
    ]
    pixel_neighbours: Annotated[
        int | None,
        click.option("--pixel-neighbours", type=int, help=f"Nearest pixels averaged [{DEFAULT.pixel_neighbours}]"),
    ]
    mode: Annotated[
        str | None, click.option("--mode", type=click.Choice(MODES), help=f"How levels are combined [{DEFAULT.mode}]")
    ]
    level_weights: Annotated[
        str | None,
        click.option(
            "--level-weights", help=f"{', '.join(LEVEL_WEIGHTS)}, or comma-separated numbers [{DEFAULT.level_weights}]"
        ),
    ]
    pixel_precision: Annotated[
        str | None,
        click.option(
            "--pixel-precision",
            type=click.Choice(PIXEL_PRECISIONS),
            help=f"fast: look for nearest pixels in bfloat16, then measure them in float32 [{DEFAULT.pixel_precision}]",
        ),
    ]
    smoothing: Annotated[
        float | None,
        click.option(
            "--smoothing", type=float, help=f"Sigma of the score map's Gaussian, pixels [{DEFAULT.smoothing}]"
        ),
    ]
    image_score: Annotated[
        ImageScore | None,
        click.option(
            "--image-score",
            type=click.Choice(IMAGE_SCORES),
            help="pooled: mean distance of the nearest images (the paper's); map: maximum of the score map; both: "
            "their product [both; pooled without maps]",
        ),
    ]

    def settings(self, preset: str | None, maps: Maps | None = None) -> SearchSettings:
        """Return the search settings. Raises InputError for values that cannot be."""
        chosen = {name: value for name, value in self._values().items() if value is not None}
        if maps is not None:
            chosen["maps"] = maps
        return replace(PAPER_SEARCH if preset == "paper" else SearchSettings(), **chosen)

    def _values(self) -> dict[str, Any]:
        values: dict[str, Any] = {option.name: getattr(self, option.name) for option in fields(self)}
        if self.level_weights is not None and self.level_weights not in LEVEL_WEIGHTS:
            values["level_weights"] = numbers("level weights", self.level_weights)
        return values
