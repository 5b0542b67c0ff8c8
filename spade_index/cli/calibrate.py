"""`spade-index calibrate`: score the gallery's own images."""

import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spade_index.settings import CALIBRATION_SAMPLE, FALSE_ALARMS, SearchSettings
from spade_index.wording import number_of, too_few

from .cluster_options import OwnClusterOptions
from .options import KernelOptions, device_option, false_alarms_option, gallery_argument, preset_option, takes
from .outputs import require_writable
from .progress import Progress
from .search_options import SearchOptions
from .values import PATH, REAL, WholeRange

if TYPE_CHECKING:  # they take long to import
    from spade_index.method.calibration import Calibration
    from spade_index.method.splits import Kept


@click.command()
@gallery_argument
@takes("search", SearchOptions)
@preset_option
@device_option
@takes("kernel", KernelOptions)
@takes("cluster", OwnClusterOptions)
@false_alarms_option
@click.option(
    "--quantile",
    type=REAL,
    help=f"Share of normal images below the threshold: 1 less the false alarms [{1 - FALSE_ALARMS:g}]",
)
@click.option(
    "--sample",
    type=WholeRange(1),
    default=CALIBRATION_SAMPLE,
    show_default=True,
    help="Number of images to score, at most.",
)
@click.option(
    "--check-splits",
    type=WholeRange(1),
    help="Also calibrate on this many random parts of the images, and say how often the others are called anomalous.",
)
@click.option("--json", "json_file", type=PATH, help="Write what was found, as JSON.")
def calibrate(
    gallery: Path,
    search: SearchOptions,
    preset: str | None,
    device: str,
    kernel: KernelOptions,
    cluster: OwnClusterOptions,
    false_alarms: float | None,
    quantile: float | None,
    sample: int,
    check_splits: int | None,
    json_file: Path | None,
) -> None:
    """Score GALLERY's own images, each searched for without itself: from then on a score has a p-value."""
    from spade_index.errors import InputError
    from spade_index.features.backbone import choose_device
    from spade_index.gallery.write.writer import GalleryWriter
    from spade_index.method import calibration
    from spade_index.method.origin import origin
    from spade_index.method.tuned import tuned_search
    from spade_index.views.files import write_whole

    if quantile is not None and false_alarms is not None:
        raise InputError("give --quantile or --false-alarms, not both")
    if quantile is not None and not 0 < quantile < 1:
        raise InputError(f"the quantile must be above 0 and below 1, not {quantile}")
    cluster.require()
    require_writable([json_file], inputs=[gallery])
    rate = FALSE_ALARMS if false_alarms is None else false_alarms
    options: dict[str, Any] = {"device": choose_device(device), "kernel": kernel.kernel, "map_memory": kernel.map_bytes}
    with ExitStack() as workers:
        with GalleryWriter(gallery) as writer:
            options["elsewhere"] = workers.enter_context(cluster.searching(device, kernel))
            settings = search.choice(preset).settings(tuned_search(writer.gallery))
            with Progress("calibrate", min(sample, len(writer.gallery))) as progress:
                chosen = calibration.calibrate(
                    writer.gallery,
                    settings,
                    false_alarms=rate if quantile is None else 1 - quantile,
                    sample=sample,
                    progress=progress,
                    **options,
                )
            calibration.store(writer, settings, chosen)
            extraction = writer.gallery.settings
        _say(chosen)
        kept = [] if check_splits is None else _check(gallery, settings, check_splits, options)
    if json_file is not None:
        found = {
            **origin(),
            **chosen.record(),
            "settings": asdict(extraction),
            "splits": check_splits,
            "kept": [asdict(one) for one in kept],
        }
        write_whole(json_file, (json.dumps(found, indent=2) + "\n").encode())


def _say(chosen: "Calibration") -> None:
    """Say what was calibrated on how many images."""
    from spade_index.method.normal_scores import images_needed

    click.echo(f"{chosen.rule} ({number_of(chosen.images, 'image')}; false alarms {chosen.false_alarms:g})")
    for kind, threshold in chosen.thresholds.items():
        click.echo(f"{kind:8} {threshold:.6g}")
    if not chosen.thresholds:
        needed = images_needed(chosen.false_alarms)
        click.echo(f"{too_few(chosen.images, 'image')} for {chosen.false_alarms:g}: {needed} are needed", err=True)


def _check(path: Path, search: SearchSettings, splits: int, options: dict[str, Any]) -> "list[Kept]":
    """Say how often images are called anomalous over random splits; return it."""
    from spade_index.gallery.reader import Gallery
    from spade_index.method.splits import false_alarms_kept

    with Gallery(path) as gallery, Progress("split", splits) as progress:
        kept = false_alarms_kept(gallery, search, splits, progress=progress, **options)
    for one in kept:
        click.echo(f"false alarms {one.asked:g}: {one.mean:.4f} over {splits} splits (+- {one.deviation:.4f})")
    return kept
