"""What does each part of a verdict bring? The same test images, with one part after the other switched on.

python benchmarks/ablation.py DATASET... --json benchmarks/results/ablation.json
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click

from spade_index.benchmarks.harness import Figures, environment, table, write_json
from spade_index.features.backbone import Backbone, load_backbone
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.method import calibration, tuning
from spade_index.method.dataset import build_gallery, find_dataset, find_test_images
from spade_index.method.detector import Detector
from spade_index.method.evaluation import evaluate
from spade_index.method.input_size import choose_input_size
from spade_index.settings import TUNE_SECONDS, SearchSettings

CALIBRATE_SECONDS = 40.0
COMPARISON = ("scaling", "compared_levels", "grid", "gallery_neighbours")
SCORES = ("smoothing", "top_share", "mapped_score")
COLUMNS = ("image_roc_auc", "pixel_roc_auc", "hit_rate", "false_alarm_rate", "search_ms", "backbone_ms")


def ablate(dataset: Path, name: str, work: Path) -> Iterator[Figures]:
    """Yield the figures of each step for a dataset in MVTec layout; every step keeps those before it."""

    def load(size: tuple[int, int] | None = None, grid: int | None = None) -> Backbone:
        return load_backbone(
            name, stored_grid=grid, preprocessing=lambda own: replace(own, input_size=size or own.input_size)
        )

    usual = load()
    with build_gallery(dataset, work / "usual", usual):
        pass
    yield measure("fixed defaults", dataset, work / "usual", usual, SearchSettings())
    files = find_dataset(dataset).require_normal()
    backbone = choose_input_size(files, usual, load, seconds=TUNE_SECONDS / 2).backbone
    with build_gallery(dataset, work / "chosen", backbone) as gallery:
        tuned = tuning.tune(gallery, backbone).settings
    search = SearchSettings()
    for step, names in (
        (f"input size chosen: {backbone.settings.preprocessing.input_size[0]}", ()),
        (f"comparison tuned: {tuning.describe_pixels(tuned)}", COMPARISON),
        ("scores tuned", SCORES),
        ("neighbours' maps subtracted", ("subtract_neighbours",)),
    ):
        search = replace(search, **{name: getattr(tuned, name) for name in names})
        yield measure(step, dataset, work / "chosen", backbone, search)


def measure(step: str, dataset: Path, path: Path, backbone: Backbone, search: SearchSettings) -> Figures:
    """Calibrate a gallery for search settings and evaluate it."""
    with GalleryWriter(path) as writer:
        found = calibration.calibrate(writer.gallery, search, seconds=CALIBRATE_SECONDS)
        calibration.store(writer, search, found)
    with Gallery(path) as gallery:
        detector = Detector(gallery, backbone, search)
        figures = evaluate(detector, find_test_images(dataset)).summary(detector.kind)
    seconds, images = figures["seconds"], figures["images"]
    times = {"search_ms": 1e3 * seconds["search_per_image"], "backbone_ms": 1e3 * seconds["backbone"] / images}
    return {"step": step, **{name: (figures | times)[name] for name in COLUMNS}}


@click.command(help=__doc__)
@click.argument("datasets", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--backbone", default="efficientnet-lite0", show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(datasets: tuple[Path, ...], backbone: str, json_file: Path | None) -> None:
    """Measure every dataset, print a table of each, and write the figures."""
    figures: Figures = {**environment(), "datasets": {}}
    for dataset in datasets:
        with tempfile.TemporaryDirectory(prefix="spade-index-") as work:
            rows = list(ablate(dataset, backbone, Path(work)))
        figures["datasets"][dataset.name] = rows
        cells = [[row["step"], *(f"{row[column]:.3f}" for column in COLUMNS)] for row in rows]
        click.echo("\n".join([dataset.name, *table([["step", *COLUMNS], *cells]), ""]))
        write_json(json_file, figures)


if __name__ == "__main__":
    main()
