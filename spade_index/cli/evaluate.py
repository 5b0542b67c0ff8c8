"""`spade-index evaluate`: measure how well defects are found in a dataset."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spade_index.errors import GalleryError, InputError
from spade_index.settings import LARGEST_EDGE, LAYOUTS

from .backbone_options import BackboneOptions
from .cache_options import CacheOptions, local
from .cluster_options import SearchClusterOptions
from .options import (
    KernelOptions,
    LoadingOptions,
    device_option,
    false_alarms_option,
    preset_option,
    takes,
    tune_option,
)
from .outputs import require_writable
from .pixel_options import PixelOptions
from .progress import Progress
from .resuming import Finished
from .roi import require_region, roi_option
from .search_options import SearchOptions
from .sources import SourceOptions
from .strict import strict_json
from .tile_options import TileOptions
from .values import ANY_GALLERY, PATH, WholeRange

if TYPE_CHECKING:  # they take long to import
    from spade_index.gallery.location import Location
    from spade_index.method.layouts import Found
    from spade_index.method.pixel_search import Elsewhere

    from .evaluating import Evaluator


@click.command()
@click.argument("dataset", type=PATH)
@click.option(
    "--gallery",
    type=ANY_GALLERY,
    help="Use this gallery, or of several categories those in this folder [build one from the normal images]",
)
@click.option(
    "--layout",
    type=click.Choice(LAYOUTS, case_sensitive=False),
    help="How the dataset is laid out [the first that it looks like]",
)
@click.option("--json", "json_file", type=PATH, help="Write the figures to this file.")
@click.option("--report", type=PATH, help="Write a page with figures and examples to this file.")
@click.option(
    "--maps",
    type=PATH,
    help="Write the score maps into this folder, as float16 TIFF of the images' sizes: anomaly_images/CATEGORY/*",
)
@click.option(
    "--metric-size",
    type=WholeRange(16, LARGEST_EDGE),
    help="Edge at which pixels are compared [the input's; 256 with the preset]",
)
@roi_option
@false_alarms_option
@tune_option
@takes("search", SearchOptions)
@preset_option
@takes("backbone", BackboneOptions)
@takes("pixels", PixelOptions)
@takes("tiles", TileOptions)
@device_option
@takes("kernel", KernelOptions)
@takes("loading", LoadingOptions)
@takes("sources", SourceOptions)
@takes("cache", CacheOptions)
@takes("cluster", SearchClusterOptions)
def evaluate(
    dataset: Path,
    gallery: "Path | Location | None",
    layout: str | None,
    json_file: Path | None,
    report: Path | None,
    maps: Path | None,
    metric_size: int | None,
    roi: Path | None,
    false_alarms: float | None,
    no_tune: bool,
    search: SearchOptions,
    preset: str | None,
    backbone: BackboneOptions,
    pixels: PixelOptions,
    tiles: TileOptions,
    device: str,
    kernel: KernelOptions,
    loading: LoadingOptions,
    sources: SourceOptions,
    cache: CacheOptions,
    cluster: SearchClusterOptions,
) -> None:
    """Measure how well defects are found in DATASET: a folder in one of the known layouts, or a CSV or JSON file.

    Layouts are those of MVTec AD (train/good, test/KIND, ground_truth/KIND), MVTec AD 2 and LOCO, VisA, BTAD, MPDD,
    KolektorSDD2, Real-IAD, and a table of images. A folder of several categories gives a table with means; with --json,
    it carries on where it was interrupted.
    """
    from spade_index.method.layouts import find_datasets
    from spade_index.views.evaluation import text_of

    from .evaluating import Evaluator

    cluster.require()
    if cluster.ray is not None and gallery is None:
        raise click.UsageError("--ray needs --gallery: other machines do not see a gallery that is built here")
    loading = cluster.decoding(loading)
    loading.limit_decoding()
    require_writable([json_file, report], [maps], inputs=[dataset, *local(gallery)])
    search.choice(preset)  # raises what is wrong of itself, before anything is read
    require_region(roi)
    passed_over = sources.passed_over(dataset)
    found = find_datasets(dataset, layout, passed_over)
    if passed_over:
        Progress.say(str(passed_over))
    evaluator = Evaluator(
        metric_size,
        false_alarms,
        no_tune,
        search,
        preset,
        backbone,
        pixels,
        tiles,
        device,
        kernel,
        loading,
        maps,
        roi,
        dataset,
        cache,
    )
    if found.passed_over:
        Progress.say(f"no categories, passed over: {', '.join(found.passed_over)}")
    for one in found.datasets:
        if not found.is_root:
            one.require_masks_fit()
        if one.left_out:
            Progress.say(f"{one.name}: not used: {', '.join(one.left_out)}")
    with cluster.searching(device, kernel, cache) as elsewhere:
        if len(found.datasets) + len(found.broken) > 1:
            _evaluate_all(evaluator, found, dataset, gallery, json_file, report, elsewhere)
            return
        figures = evaluator.figures(found.datasets[0], gallery, report, elsewhere)
    click.echo(text_of(figures))
    if json_file is not None:
        _write_json(json_file, figures)
    _require_decoded([figures])


def _evaluate_all(
    evaluator: "Evaluator",
    found: "Found",
    path: Path,
    gallery: "Path | Location | None",
    json_file: Path | None,
    report: Path | None,
    elsewhere: "Elsewhere | None",
) -> None:
    """Evaluate the categories that are not done yet; print and write the figures of all.

    One that fails is named, and ends nothing but itself. Raises InputError in the end if there was one, or an image
    could not be decoded.
    """
    from spade_index.method.means import means_of
    from spade_index.views.categories import text_of_categories, write_categories

    options = asdict(evaluator) | {"dataset": path.resolve(), "gallery": gallery}
    del options["loading"], options["root"], options["cache"]
    finished = Finished(json_file, options)
    if len(finished):
        Progress.say(f"carrying on: {len(finished)} of {len(found.datasets)} categories are in {finished.path}")
    categories: dict[str, dict[str, Any]] = {}
    failed = list(found.broken)
    for name, reason in found.broken.items():
        Progress.say(f"{name}: {reason}")
    for dataset in found.datasets:
        figures = finished.figures(dataset)
        page = None if report is None else _page_of(report, dataset.name)
        if figures is None or (page is not None and not page.is_file()):
            try:
                figures = evaluator.figures(
                    dataset, None if gallery is None else gallery / dataset.name, page, elsewhere
                )
            except (InputError, GalleryError) as error:
                Progress.say(f"{dataset.name}: {error}")
                failed.append(dataset.name)
                continue
            finished.add(dataset, figures)
        categories[dataset.name] = figures
    if not categories:
        raise InputError(f"{path}: none of the {len(failed)} categories could be evaluated")
    together = {
        "dataset": path.resolve().name,
        "layout": found.datasets[0].layout,
        "mean": means_of(categories),
        "categories": categories,
    }
    click.echo(text_of_categories(together))
    if failed:
        kept = f"; {finished.path} has the others" if finished.path is not None else ""
        raise InputError(f"{path}: could not be evaluated: {', '.join(failed)}{kept}")
    if report is not None:
        write_categories(report, f"Evaluation of {path.resolve().name}", together)
    if json_file is not None:
        _write_json(json_file, together)
    finished.remove()
    _require_decoded(categories.values())


def _require_decoded(categories: Iterable[dict[str, Any]]) -> None:
    """Raise InputError if test or normal images of the categories could not be decoded."""
    failed = sum(of["not_decoded"]["count"] + of["gallery"]["not_decoded"]["count"] for of in categories)
    if failed:
        raise InputError(f"{failed:,} of the images could not be decoded")


def _page_of(report: Path, category: str) -> Path:
    """Return the page of a category, beside the page of all; a table may call a category anything."""
    from spade_index.views.names import file_name

    return report.with_name(f"{report.stem}.{file_name(category).replace('/', '_')}{report.suffix}")


def _write_json(path: Path, figures: dict[str, Any]) -> None:
    from spade_index.views.files import write_whole

    write_whole(path, (strict_json(figures, indent=2) + "\n").encode())
