"""The command line's shared arguments and options, and what they make: backbones, search settings, progress bars."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from tqdm import tqdm

from spade_index.errors import InputError
from spade_index.gallery.reader import Gallery
from spade_index.images.find import ImageFile, find_images
from spade_index.settings import (
    DEFAULT_BACKBONE,
    IMAGE_SCORES,
    LEVEL_WEIGHTS,
    MAPS,
    MODES,
    PAPER_PREPROCESSING,
    PAPER_SEARCH,
    PIXEL_PRECISIONS,
    Preprocessing,
    SearchSettings,
)

if TYPE_CHECKING:
    from spade_index.features.backbone import Backbone

Command = TypeVar("Command", bound=Callable[..., Any])
SEARCH = SearchSettings()  # for the defaults in the help


def backbone_options(command: Command) -> Command:
    """How features are made: what a gallery records."""
    return _together(
        click.option(
            "--backbone", help=f"Backbone: torchvision NAME, timm:NAME, efficientnet-lite0 [{DEFAULT_BACKBONE}]"
        ),
        click.option("--weights", type=click.Path(), help="Weights file: safetensors, or .pth with tensors only."),
        click.option("--levels", help="Names of the pyramid's modules, by commas; the finest level first."),
        click.option("--input-size", help="Edge, or HEIGHTxWIDTH, of the backbone's input in pixels [224]"),
        click.option("--resize", type=int, help="Resize the shorter edge to this, then crop the centre [whole image]"),
        click.option("--interpolation", type=click.Choice(["bilinear", "bicubic"]), help="Of the resizing [bilinear]"),
        click.option("--mean", help="Three means of the inputs in 0..1, by commas [the backbone's own]"),
        click.option("--std", help="Three standard deviations, by commas [the backbone's own]"),
        click.option("--precision", type=click.Choice(["float32", "bfloat16"]), help="Of the backbone [float32]"),
    )(command)


def search_options(command: Command) -> Command:
    """How a gallery is searched and scored."""
    return _together(
        click.option("--score-neighbours", type=int, help=f"K of the pooled image score [{SEARCH.score_neighbours}]"),
        click.option(
            "--gallery-neighbours", type=int, help=f"K images that pixels are searched in [{SEARCH.gallery_neighbours}]"
        ),
        click.option("--pixel-neighbours", type=int, help=f"Nearest pixels averaged [{SEARCH.pixel_neighbours}]"),
        click.option("--mode", type=click.Choice(MODES), help=f"How levels are combined [{SEARCH.mode}]"),
        click.option(
            "--level-weights", help=f"{', '.join(LEVEL_WEIGHTS)}, or numbers by commas [{SEARCH.level_weights}]"
        ),
        click.option(
            "--pixel-precision",
            type=click.Choice(PIXEL_PRECISIONS),
            help=f"fast: look for nearest pixels in bfloat16, then measure them in float32 [{SEARCH.pixel_precision}]",
        ),
        click.option("--smoothing", type=float, help=f"Sigma of the score map's Gaussian, pixels [{SEARCH.smoothing}]"),
        click.option(
            "--image-score",
            type=click.Choice(IMAGE_SCORES),
            help="pooled: mean distance of the nearest images (the paper's); map: maximum of the score map; both: "
            "their product [both; pooled without maps]",
        ),
    )(command)


gallery_argument = click.argument("gallery", type=click.Path(path_type=Path))
images_argument = click.argument("images", type=click.Path(path_type=Path))
maps_option = click.option(
    "--maps",
    type=click.Choice(MAPS),
    help=f"Score maps of all images, of those above the threshold, or of none [{SEARCH.maps}]",
)
preset_option = click.option(
    "--preset",
    type=click.Choice(["paper"]),
    help="The settings of Cohen and Hoshen 2020; other options override, and a gallery keeps its preprocessing.",
)
device_option = click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, or auto.")


def kernel_options(command: Command) -> Command:
    """What searches for pixels."""
    return _together(
        click.option(
            "--kernel",
            help="Backend of the pixel search: torch, triton, cupy, reference [$SPADE_INDEX_KERNEL; the device's best]",
        ),
        click.option(
            "--map-memory",
            type=click.IntRange(1),
            help="MiB of normal images' feature maps that are kept for the pixel search [128; half of a GPU's memory]",
        ),
    )(command)


def loading_options(command: Command) -> Command:
    """How images are read."""
    return _together(
        click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Images per batch."),
        click.option(
            "--workers",
            type=click.IntRange(1),
            default=os.cpu_count() or 2,
            help="Decoding threads, or processes [one per core]",
        ),
    )(command)


def adding_options(command: Command) -> Command:
    """How images become a gallery's."""
    return _together(
        click.option("--prefix", default="", help="Put before each image id."),
        click.option("--replace", is_flag=True, help="Take changed images in place of the ones with their ids."),
        click.option("--strict", is_flag=True, help="Stop at the first image that cannot be decoded."),
    )(command)


def make_backbone(options: dict[str, Any], gallery: Gallery | None = None) -> "Backbone":
    """Take the backbone's options out of `options` and load it; unset ones are the gallery's, or the defaults.

    An option that differs from the gallery's is not an error here: the settings are compared when they meet.
    """
    from spade_index.features.backbone import (
        load_backbone,  # imports torch, which commands that need no backbone do without
    )

    name, weights, levels = options.pop("backbone"), options.pop("weights"), options.pop("levels")
    device, precision = options.pop("device"), options.pop("precision")
    changes = {
        "input_size": _size(options.pop("input_size")),
        "resize": options.pop("resize"),
        "interpolation": options.pop("interpolation"),
        "mean": _numbers("mean", options.pop("mean"), 3),
        "std": _numbers("std", options.pop("std"), 3),
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    paper = options.get("preset") == "paper"
    recorded = gallery.settings if gallery is not None else None
    if recorded is not None and not weights and gallery is not None:
        weights = gallery.catalog.meta("weights_file") if name in (None, recorded.backbone) else None

    def preprocessing(default: Preprocessing) -> Preprocessing:
        if recorded is not None:
            default = recorded.preprocessing
        elif paper:
            default = replace(default, input_size=PAPER_PREPROCESSING.input_size, resize=PAPER_PREPROCESSING.resize)
        return replace(default, **changes)

    return load_backbone(
        name or (recorded.backbone if recorded else DEFAULT_BACKBONE),
        weights=weights,
        levels=_names(levels) or (recorded.levels if recorded and name in (None, recorded.backbone) else None),
        preprocessing=preprocessing,
        device=device,
        precision=precision or (recorded.precision if recorded else "float32"),
    )


def make_kernel(options: dict[str, Any]) -> dict[str, Any]:
    """Take the kernel's options out of `options`, as the Detector's arguments."""
    memory = options.pop("map_memory")
    return {"kernel": options.pop("kernel"), "map_memory": memory and memory << 20}


def make_search(options: dict[str, Any]) -> SearchSettings:
    """Take the search options out of `options`; unset ones are the preset's, or the defaults."""
    base = PAPER_SEARCH if options.pop("preset", None) == "paper" else SEARCH
    names = [name for name in vars(SEARCH) if name in options]
    chosen = {name: value for name in names if (value := options.pop(name)) is not None}
    weights = chosen.get("level_weights")
    if weights is not None and weights not in LEVEL_WEIGHTS:
        chosen["level_weights"] = _numbers("level weights", weights)
    return replace(base, **chosen)


def require_images(sources: Iterable[Path]) -> None:
    """Raise InputError for a source without images."""
    for source in sources:
        if next(find_images(source), None) is None:
            raise InputError(f"{source}: no images in it (JPEG, PNG, BMP, TIFF, WebP)")


def files_of(sources: Iterable[Path], prefix: str = "") -> Iterator[ImageFile]:
    """The images of all sources."""
    return chain.from_iterable(find_images(source, prefix) for source in sources)


class Progress:
    """A bar on standard error with throughput and time left; silent where that is no terminal, or nothing to do."""

    def __init__(self, what: str, total: int | None = None, unit: str = " images") -> None:
        silent = total == 0 or not sys.stderr.isatty()
        scale = unit == "B"  # to kB, MB and so on
        self._bar = tqdm(desc=what, total=total, unit=unit, unit_scale=scale, disable=silent, dynamic_ncols=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def __call__(self, count: int) -> None:
        """So many more are done."""
        self._bar.update(count)

    @staticmethod
    def note(line: str) -> None:
        """A line on standard error, where that is a terminal."""
        if sys.stderr.isatty():
            Progress.say(line)

    @staticmethod
    def say(line: str) -> None:
        """A line on standard error, above the bar."""
        tqdm.write(line, file=sys.stderr)


def _together(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _names(text: str | None) -> tuple[str, ...] | None:
    return tuple(name.strip() for name in text.split(",")) if text else None


def _numbers(what: str, text: str | None, count: int | None = None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{what}: {text!r} is not a list of numbers by commas") from error
    if count is not None and len(numbers) != count:
        raise InputError(f"{what}: give {count} numbers by commas, not {text!r}")
    return numbers


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, _, width = text.partition("x")
    try:
        return int(height), int(width or height)
    except ValueError as error:
        raise InputError(f"input size: give an edge (224) or HEIGHTxWIDTH (224x320), not {text!r}") from error
