"""The commands that score images: query, evaluate, demo."""

from pathlib import Path
from typing import Any

import click

from spade_index.errors import InputError
from spade_index.gallery.reader import Gallery

# What needs torch, which takes seconds to import, is imported by the commands that use it.
from .options import (
    Progress,
    backbone_options,
    device_option,
    files_of,
    gallery_argument,
    kernel_options,
    loading_options,
    make_backbone,
    make_kernel,
    make_search,
    maps_option,
    preset_option,
    require_images,
    search_options,
)


@click.command()
@gallery_argument
@click.argument("images", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for score maps, heat maps and report.html.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per image.")
@click.option("--threshold", type=float, help="Call images anomalous above this score [the calibrated one]")
@click.option("--snapshot", type=int, help="Compare with the gallery as of this snapshot [the latest]")
@search_options
@maps_option
@preset_option
@backbone_options
@device_option
@kernel_options
@loading_options
def query(
    gallery: Path,
    images: tuple[Path, ...],
    out: Path | None,
    as_json: bool,
    threshold: float | None,
    snapshot: int | None,
    **options: Any,
) -> None:
    """Score IMAGES against GALLERY, and show where they are not normal."""
    from spade_index.method.detector import Detector

    from .query import Query

    require_images(images)
    with Gallery(gallery, snapshot) as opened:
        backbone = make_backbone(options, opened)
        search = make_search(options)
        detector = Detector(opened, backbone, search, threshold, **make_kernel(options))
        if search.maps != "never":
            Progress.note(f"pixel search by {detector.kernel}")
        if threshold is None and detector.calibrated_on not in (None, opened.snapshot):
            click.echo(
                f"the threshold was chosen on snapshot {detector.calibrated_on}, this is {opened.snapshot}: "
                f"`spade-index calibrate {gallery}` chooses it anew",
                err=True,
            )
        run = Query(detector, out, as_json)
        run.run(lambda: files_of(images), options["batch_size"], options["workers"])
    if run.failed:
        raise InputError(f"{run.failed:,} of the images could not be decoded")


@click.command()
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--gallery", type=click.Path(path_type=Path), help="Use this gallery [build one from train/good]")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to this file.")
@click.option("--report", type=click.Path(path_type=Path), help="Write a page with figures and examples to this file.")
@click.option(
    "--metric-size",
    type=click.IntRange(16),
    help="Edge at which pixels are compared [the input's; 256 with the preset]",
)
@search_options
@preset_option
@backbone_options
@device_option
@kernel_options
@loading_options
def evaluate(dataset: Path, gallery: Path | None, **options: Any) -> None:
    """Measure ROC AUC and PRO on a DATASET in MVTec layout: train/good, test/KIND, ground_truth/KIND."""
    from .evaluate import run

    run(dataset, gallery, options)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, help="Folder to use.")
def demo(out: Path) -> None:
    """Build, query and evaluate on photographs of textures with made defects; needs no data and no download."""
    from .demonstration import run_demo

    run_demo(out, say=click.echo)
