"""The options of a backbone."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import click

from spade_index.presets import PAPER_PREPROCESSING, PAPER_STRIDES
from spade_index.settings import DEFAULT_BACKBONE, Precision, Preprocessing

from .options import whole_option
from .parsing import names, numbers, size
from .values import WEIGHTS, WHOLE

if TYPE_CHECKING:  # both take long to import, and commands that have no backbone do without
    from spade_index.features.backbone import Backbone
    from spade_index.gallery.reader import Gallery

AUTO = "auto"  # the input size is chosen by the images


@dataclass(frozen=True)
class BackboneOptions:
    """Options of the features, which a gallery records; None: the gallery's value, the preset's, or the default."""

    name: Annotated[
        str | None,
        click.option(
            "--backbone", "name", help=f"Backbone: torchvision NAME, timm:NAME, efficientnet-lite0 [{DEFAULT_BACKBONE}]"
        ),
    ]
    weights: Annotated[
        Path | None,
        click.option("--weights", type=WEIGHTS, help="Weights file: safetensors, or .pth with tensors only."),
    ]
    levels: Annotated[
        str | None,
        click.option("--levels", help="Comma-separated names of the pyramid's modules, the finest first."),
    ]
    input_size: Annotated[
        str | None,
        click.option(
            "--input-size", help="Edge, or HEIGHTxWIDTH, of the backbone's input in pixels, or auto [a gallery: auto]"
        ),
    ]
    stored_grid: Annotated[
        int | None,
        whole_option(
            "--stored-grid",
            None,
            "Average levels to this many cells along the longer edge, before they are stored [not averaged]",
        ),
    ]
    resize: Annotated[
        int | None,
        click.option(
            "--resize", type=WHOLE, help="Resize the shorter edge to this, then crop the centre [whole image]"
        ),
    ]
    interpolation: Annotated[
        Literal["bilinear", "bicubic"] | None,
        click.option(
            "--interpolation", type=click.Choice(["bilinear", "bicubic"]), help="Of the resizing [the backbone's own]"
        ),
    ]
    mean: Annotated[
        str | None,
        click.option("--mean", help="Comma-separated means of the inputs in 0..1 [the backbone's own]"),
    ]
    std: Annotated[str | None, click.option("--std", help="Comma-separated standard deviations [the backbone's own]")]
    precision: Annotated[
        Precision | None,
        click.option("--precision", type=click.Choice(["float32", "bfloat16"]), help="Of the backbone [float32]"),
    ]

    @property
    def leaves_size_open(self) -> bool:
        """True if no option fixes what a gallery's input size depends on."""
        given = (self.levels, self.resize, self.stored_grid)
        return self.input_size in (None, AUTO) and all(option is None for option in given)

    def load(
        self,
        device: str,
        gallery: "Gallery | None" = None,
        preset: str | None = None,
        *,
        input_size: tuple[int, int] | None = None,
        stored_grid: int | None = None,
        pixels: dict[str, Any] | None = None,
    ) -> "Backbone":
        """Load the backbone; options that were not given are the gallery's, or the defaults.

        `input_size` and `stored_grid` are in place of the defaults; `pixels` is the range of pixels and the tiles of a
        gallery that is new (see `PixelOptions.found_in` and `TileOptions.given`).
        An option that differs from the gallery's is no error here: the caller compares the settings.
        Raises BackboneError and InputError.
        """
        from spade_index.features.backbone import load_backbone
        from spade_index.features.levels import STRIDES

        changes = ({} if input_size is None else {"input_size": input_size}) | self._changes() | (pixels or {})
        recorded = gallery.settings if gallery is not None else None
        same_name = recorded is not None and self.name in (None, recorded.backbone)
        weights: str | Path | None = self.weights
        if gallery is not None and same_name and not weights:
            weights = gallery.catalog.meta("weights_file")

        def preprocessing(default: Preprocessing) -> Preprocessing:
            if recorded is not None:
                default = recorded.preprocessing
            elif preset == "paper":
                default = replace(default, input_size=PAPER_PREPROCESSING.input_size, resize=PAPER_PREPROCESSING.resize)
            return replace(default, **changes)

        return load_backbone(
            self.name or (recorded.backbone if recorded else DEFAULT_BACKBONE),
            weights=weights,
            levels=names(self.levels) or (recorded.levels if recorded and same_name else None),
            preprocessing=preprocessing,
            device=device,
            strides=PAPER_STRIDES if preset == "paper" else STRIDES,
            precision=self.precision or (recorded.precision if recorded else "float32"),
            stored_grid=self.stored_grid or stored_grid or (recorded.stored_grid if recorded else None),
        )

    def _changes(self) -> dict[str, Any]:
        """Return the fields of the preprocessing that were given."""
        values = {
            "input_size": None if self.input_size == AUTO else size(self.input_size),
            "resize": self.resize,
            "interpolation": self.interpolation,
            "mean": numbers("mean", self.mean, 3),
            "std": numbers("std", self.std, 3),
        }
        return {name: value for name, value in values.items() if value is not None}
