"""`spade-index calibrate`: choose thresholds."""

from pathlib import Path

import click

from spade_index.settings import CALIBRATION_QUANTILE, CALIBRATION_SAMPLE

from .options import KernelOptions, device_option, gallery_argument, preset_option, takes
from .progress import Progress
from .search_options import SearchOptions


@click.command()
@gallery_argument
@takes("search", SearchOptions)
@preset_option
@device_option
@takes("kernel", KernelOptions)
@click.option(
    "--quantile",
    type=float,
    default=CALIBRATION_QUANTILE,
    show_default=True,
    help="Share of normal images below the threshold.",
)
@click.option(
    "--sample",
    type=click.IntRange(1),
    default=CALIBRATION_SAMPLE,
    show_default=True,
    help="Number of images to score, at most.",
)
def calibrate(
    gallery: Path,
    search: SearchOptions,
    preset: str | None,
    device: str,
    kernel: KernelOptions,
    quantile: float,
    sample: int,
) -> None:
    """Choose thresholds from GALLERY's own images: a quantile of their leave-one-out scores."""
    from spade_index.features.backbone import choose_device
    from spade_index.gallery.write.writer import GalleryWriter
    from spade_index.method import calibration

    settings = search.settings(preset)
    where = choose_device(device)
    with GalleryWriter(gallery) as writer:
        with Progress("calibrate", min(sample, len(writer.gallery))) as progress:
            chosen = calibration.calibrate(
                writer.gallery,
                settings,
                quantile=quantile,
                sample=sample,
                progress=progress,
                device=where,
                kernel=kernel.kernel,
                map_memory=kernel.map_bytes,
            )
        calibration.store(writer, settings, chosen)
    click.echo(f"{chosen.rule} ({chosen.images} images, quantile {quantile:g})")
    for kind, threshold in chosen.thresholds.items():
        click.echo(f"{kind:8} {threshold:.6g}")
