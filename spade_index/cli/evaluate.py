"""`spade-index evaluate`: measure how well defects are found in a dataset."""

import json
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spade_index.settings import PAPER_METRIC_SIZE

from .backbone_options import BackboneOptions
from .judging import judge_gallery, sized_backbone
from .options import (
    KernelOptions,
    LoadingOptions,
    device_option,
    false_alarms_option,
    preset_option,
    takes,
    tune_option,
)
from .progress import Progress
from .search_options import SearchOptions

if TYPE_CHECKING:  # both take long to import
    from spade_index.features.backbone import Backbone
    from spade_index.gallery.reader import Gallery


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
@false_alarms_option
@tune_option
@takes("search", SearchOptions)
@preset_option
@takes("backbone", BackboneOptions)
@device_option
@takes("kernel", KernelOptions)
@takes("loading", LoadingOptions)
def evaluate(
    dataset: Path,
    gallery: Path | None,
    json_file: Path | None,
    report: Path | None,
    metric_size: int | None,
    false_alarms: float | None,
    no_tune: bool,
    search: SearchOptions,
    preset: str | None,
    backbone: BackboneOptions,
    device: str,
    kernel: KernelOptions,
    loading: LoadingOptions,
) -> None:
    """Measure ROC AUC and PRO on a DATASET in MVTec layout: train/good, test/KIND, ground_truth/KIND."""
    from spade_index.gallery.reader import Gallery
    from spade_index.images.find import find_images
    from spade_index.method import evaluation
    from spade_index.method.dataset import find_test_images, require_normal
    from spade_index.method.detector import Detector
    from spade_index.method.tuned import tuned_search
    from spade_index.views.evaluation import text_of, write_evaluation

    from .answers import note_calibration

    images = find_test_images(dataset)
    with ExitStack() as stack:
        opened = stack.enter_context(Gallery(gallery)) if gallery is not None else None
        choice = search.choice(preset)
        building = 0.0
        if opened is None:
            started = time.perf_counter()
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="spade-index-"))
            tuned = not no_tune and preset is None
            if tuned and backbone.leaves_size_open:
                loaded = sized_backbone(backbone, device, find_images(require_normal(dataset)))
            else:
                loaded = backbone.load(device, preset=preset)
            opened = stack.enter_context(_build(dataset, Path(folder) / "gallery", loaded, loading, tuned))
            building = time.perf_counter() - started
        else:
            loaded = backbone.load(device, opened, preset)
        settings = choice.settings(tuned_search(opened))
        detector = Detector(
            opened, loaded, settings, false_alarms=false_alarms, kernel=kernel.kernel, map_memory=kernel.map_bytes
        )
        note_calibration(detector)
        Progress.note(f"pixel search by {detector.kernel}")
        with Progress("evaluate", len(images)) as progress:
            found = evaluation.evaluate(
                detector,
                images,
                metric_size=metric_size or (PAPER_METRIC_SIZE if preset == "paper" else None),
                batch_size=loading.batch_size,
                workers=loading.workers,
                notice=progress.say,
                progress=progress,
            )
        figures = {
            "dataset": str(dataset),
            **found.summary(detector.kind),
            "false_alarms": detector.false_alarms,
            "gallery": {"images": len(opened), "snapshot": opened.snapshot, "seconds": building},
            "search": asdict(settings) | {"image_score": detector.kind},
            "kernel": str(detector.kernel),
            "map_pool": detector.map_pool.info(),
            "settings": asdict(opened.settings),
        }
        click.echo(text_of(figures))
        if json_file is not None:
            _write_json(json_file, figures)
        if report is not None:
            write_evaluation(report, f"Evaluation of {dataset.resolve().name}", detector, found, figures)


def _build(dataset: Path, path: Path, backbone: "Backbone", loading: LoadingOptions, tuned: bool) -> "Gallery":
    from spade_index.gallery.reader import Gallery
    from spade_index.gallery.write.writer import GalleryWriter
    from spade_index.method.dataset import build_gallery

    with Progress("build") as progress:
        built = build_gallery(
            dataset,
            path,
            backbone,
            batch_size=loading.batch_size,
            workers=loading.workers,
            notice=progress.say,
            progress=progress,
        )
    if not tuned:
        return built
    built.close()
    with GalleryWriter(path) as writer:
        judge_gallery(writer, backbone)
    return Gallery(path)


def _write_json(path: Path, figures: dict[str, Any]) -> None:
    strict = json.loads(json.dumps(figures), parse_constant=lambda name: None)  # JSON has no NaN
    path.write_text(json.dumps(strict, indent=2) + "\n")
