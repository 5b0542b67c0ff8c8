"""The options of a search."""

from dataclasses import dataclass, fields
from typing import Annotated, Any

import click

from spade_index.presets import SearchChoice
from spade_index.settings import (
    IMAGE_SCORES,
    LEVEL_WEIGHTS,
    MAPS,
    MODES,
    PIXEL_PRECISIONS,
    SCALINGS,
    ImageScore,
    Maps,
    SearchSettings,
)

from .parsing import numbers, whole_numbers
from .values import REAL, WHOLE

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
        click.option(
            "--score-neighbours", type=WHOLE, help=f"K of the pooled image score [{DEFAULT.score_neighbours}]"
        ),
    ]
    gallery_neighbours: Annotated[
        int | None,
        click.option(
            "--gallery-neighbours",
            type=WHOLE,
            help=f"K images that pixels are searched in [{DEFAULT.gallery_neighbours}]",
        ),
    ]
    pixel_neighbours: Annotated[
        int | None,
        click.option("--pixel-neighbours", type=WHOLE, help=f"Nearest pixels averaged [{DEFAULT.pixel_neighbours}]"),
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
    scaling: Annotated[
        str | None,
        click.option(
            "--scaling",
            type=click.Choice(SCALINGS),
            help="Of each pixel's features before they are compared: none, to the root of their length, to length 1, "
            f"or to length 1 after whitening by channel [{DEFAULT.scaling}]",
        ),
    ]
    compared_levels: Annotated[
        str | None,
        click.option(
            "--compared-levels",
            help="Levels that are compared: comma-separated numbers, 0 the finest [all, but for a fourth at stride 32]",
        ),
    ]
    grid: Annotated[
        int | None,
        click.option(
            "--grid", type=WHOLE, help="Cells of the longer edge that finer levels are averaged to [as stored]"
        ),
    ]
    window: Annotated[
        int | None,
        click.option("--window", type=WHOLE, help="Match only within this many cells of the same place [anywhere]"),
    ]
    same_place: Annotated[
        bool | None,
        click.option(
            "--same-place",
            is_flag=True,
            default=None,
            help="Compare a tile with tiles at the same place of their pictures alone, for products that lie alike.",
        ),
    ]
    whole_weight: Annotated[
        float | None,
        click.option(
            "--whole-weight",
            type=REAL,
            help="Of whole pictures beside their tiles, in a gallery built with --whole: 0 are tiles alone, 1 whole "
            f"pictures alone; between them the higher of both counts [{DEFAULT.whole_weight:g}]",
        ),
    ]
    subtract_neighbours: Annotated[
        float | None,
        click.option(
            "--subtract-neighbours",
            type=REAL,
            help=f"Share of the neighbours' own score maps to subtract, 0..1 [{DEFAULT.subtract_neighbours:g}]",
        ),
    ]
    relative_score: Annotated[
        bool | None,
        click.option(
            "--relative-score/--absolute-score",
            default=None,
            help="Divide the map score by the mean of those that the neighbours themselves have, or do not [absolute]",
        ),
    ]
    smoothing: Annotated[
        float | None,
        click.option("--smoothing", type=REAL, help=f"Sigma of the score map's Gaussian, pixels [{DEFAULT.smoothing}]"),
    ]
    top_share: Annotated[
        float | None,
        click.option(
            "--top-share",
            type=REAL,
            help=f"Highest share of the score map whose mean is the map score; 0: its maximum [{DEFAULT.top_share:g}]",
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

    def choice(self, preset: str | None, maps: Maps | None = None) -> SearchChoice:
        """Return what was asked for; the rest follows from the gallery. Raises InputError for values that cannot be."""
        chosen = {name: value for name, value in self._values().items() if value is not None}
        if maps is not None:
            chosen["maps"] = maps
        choice = SearchChoice(chosen, preset)
        choice.settings()  # raises what is wrong of itself, before a gallery is opened
        return choice

    def _values(self) -> dict[str, Any]:
        values: dict[str, Any] = {option.name: getattr(self, option.name) for option in fields(self)}
        if self.level_weights is not None and self.level_weights not in LEVEL_WEIGHTS:
            values["level_weights"] = numbers("level weights", self.level_weights)
        if self.compared_levels is not None:
            values["compared_levels"] = whole_numbers("compared levels", self.compared_levels)
        return values
