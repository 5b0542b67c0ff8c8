"""What `build`, `tune` and `evaluate` share: the choice of input size, tuning and calibration, with progress."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from spade_index.settings import CALIBRATION_SAMPLE, TUNE_FROM, TUNE_SECONDS

from .backbone_options import BackboneOptions
from .progress import Progress

if TYPE_CHECKING:  # all take long to import
    import torch

    from spade_index.features.backbone import Backbone
    from spade_index.gallery.write.writer import GalleryWriter
    from spade_index.images.files import ImageFile
    from spade_index.method.pixel_search import Elsewhere


def sized_backbone(
    options: BackboneOptions, device: str, files: "Iterable[ImageFile]", pixels: dict[str, Any]
) -> "Backbone":
    """Load the backbone with the input size that suits these images, and say which.

    `pixels` is how their values are read (see `PixelOptions.found_in`).
    """
    from spade_index.method.input_size import choose_input_size

    Progress.note("choosing the input size")
    chosen = choose_input_size(
        files,
        options.load(device, pixels=pixels),
        lambda size, grid: options.load(device, input_size=size, stored_grid=grid, pixels=pixels),
        seconds=TUNE_SECONDS / 2,
        say=Progress.note,
    )
    click.echo(chosen.why)
    return chosen.backbone


def keep_calibrated(
    writer: "GalleryWriter",
    device: "torch.device | None" = None,
    elsewhere: "AbstractContextManager[Elsewhere | None] | None" = None,
) -> None:
    """Carry a calibration on to the images of now: score those that came, forget those that went.

    Say whether the gallery should be tuned again. `device` is that of the pixel search; by default the CPU. `elsewhere`
    gives the workers of a cluster that search; it is entered where there is something to score.
    """
    from spade_index.method.judgement import carry_on
    from spade_index.method.tuned import calibration_for, should_tune_again, tuned_search

    search = tuned_search(writer.gallery)
    if calibration_for(writer.gallery, search) is not None:
        with elsewhere or nullcontext() as workers, Progress("calibrate") as progress:
            carry_on(writer, search, progress=progress, device=device, elsewhere=workers)
    if should_tune_again(writer.gallery):
        click.echo(f"the gallery has changed since it was tuned: `spade-index tune {writer.path}` does it again")


def judge_gallery(
    writer: "GalleryWriter",
    backbone: "Backbone",
    kernel: str | None = None,
    elsewhere: "AbstractContextManager[Elsewhere | None] | None" = None,
) -> None:
    """Tune and calibrate a gallery, unless it is as it was when that was done last, and say what was chosen.

    `elsewhere` is as for `keep_calibrated`.
    """
    from spade_index.method.calibration import MINIMUM, can_calibrate
    from spade_index.method.judgement import can_judge, tune_and_calibrate

    gallery = writer.gallery
    if len(gallery) < TUNE_FROM:
        Progress.say(f"no verdicts, only scores: to tune and calibrate takes {TUNE_FROM} images")
        return
    if not can_calibrate(gallery):
        Progress.say(f"no verdicts, only scores: to calibrate takes {MINIMUM} pictures")
    if can_judge(gallery):
        return
    Progress.note("tuning")
    with (
        elsewhere or nullcontext() as workers,
        Progress("calibrate", min(CALIBRATION_SAMPLE, len(gallery))) as progress,
    ):
        tune_and_calibrate(writer, backbone, say=click.echo, progress=progress, kernel=kernel, elsewhere=workers)
