"""What does each part of a verdict bring? The same test images, with one part after the other switched on, then off.

Also: how many defects that slipped into a gallery are in the first 5 % of its audit.

python benchmarks/ablation.py DATASET... --json benchmarks/results/ablation.json
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from spade_index.benchmarks.harness import Figures, environment, table, write_json
from spade_index.features.backbone import Backbone, load_backbone
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images.files import ImageFile
from spade_index.method import calibration, tuning
from spade_index.method.audit import audit
from spade_index.method.dataset import GOOD, build_gallery, find_dataset, find_test_images
from spade_index.method.detector import Detector
from spade_index.method.evaluation import Judged, evaluate
from spade_index.method.input_size import choose_input_size
from spade_index.method.judgement import tune_and_calibrate
from spade_index.method.regions import regions_of
from spade_index.method.ways import describe_pixels
from spade_index.settings import TUNE_SECONDS, SearchSettings
from spade_index.views.regions import mask

CALIBRATE_SECONDS = 40.0
COMPARISON = ("scaling", "compared_levels", "grid", "gallery_neighbours")
SCORES = ("smoothing", "top_share", "mapped_score")
WINDOW = 2  # cells, where tuning chose none
SLIPPED, FIRST = 0.03, 0.05  # shares of a gallery: defects that slipped in, and odd images that somebody looks at
COLUMNS = (
    "image_roc_auc",
    "pixel_roc_auc",
    "hit_rate",
    "false_alarm_rate",
    "regions_meeting_masks",  # share of the defects with a mask that have a region which meets it
    "good_with_regions",  # share of the good images
    "search_ms",
    "backbone_ms",
)


def ablate(dataset: Path, usual: Backbone, backbone: Backbone, work: Path) -> Iterator[Figures]:
    """Yield the figures of each step for a dataset: parts are added one by one, then each is left out by itself.

    `backbone` has the input size that was chosen.
    """
    with build_gallery(dataset, work / "usual", usual):
        pass
    yield measure("fixed defaults", dataset, work / "usual", usual, SearchSettings())
    with build_gallery(dataset, work / "chosen", backbone) as gallery:
        tuned = tuning.tune(gallery, backbone).settings
    search = SearchSettings()
    for step, names in (
        (f"input size chosen: {backbone.settings.preprocessing.input_size[0]}", ()),
        (f"comparison tuned: {describe_pixels(tuned)}", COMPARISON),
        ("levels weighed by what good images differ in", ("level_weights",)),
        (f"window: {'none' if tuned.window is None else f'{tuned.window} cells'}", ("window",)),
        ("scores tuned", SCORES),
        ("neighbours' maps subtracted", ("subtract_neighbours",)),
        ("score relative to the neighbours'", ("relative_score",)),
    ):
        search = replace(search, **{name: getattr(tuned, name) for name in names})
        yield measure(step, dataset, work / "chosen", backbone, search)
    yield measure("all, without the input size", dataset, work / "usual", usual, tuned)
    window = {"window": WINDOW if tuned.window is None else None}
    for step, other in (
        ("all, without the comparison", defaults((*COMPARISON, "level_weights", "window"))),
        ("all, with levels of equal weight", defaults(("level_weights",))),
        ("all, without the scores", defaults(SCORES)),
        ("all, without subtracting", defaults(("subtract_neighbours",))),
        ("all, with the absolute score", defaults(("relative_score",))),
        (f"all, {'without the window' if tuned.window is not None else f'with a window of {WINDOW}'}", window),
    ):
        yield measure(step, dataset, work / "chosen", backbone, replace(tuned, **other))


def defaults(names: tuple[str, ...]) -> dict[str, Any]:
    """Return the defaults of these search settings."""
    return {name: getattr(SearchSettings(), name) for name in names}


def measure(step: str, dataset: Path, path: Path, backbone: Backbone, search: SearchSettings) -> Figures:
    """Calibrate a gallery for search settings and evaluate it."""
    with GalleryWriter(path) as writer:
        calibrate(writer, search)
    with Gallery(path) as gallery:
        detector = Detector(gallery, backbone, search)
        shown = ShownRegions()
        figures = evaluate(detector, find_test_images(dataset), each=shown).summary(detector.kind)
    seconds, images = figures["seconds"], figures["images"]
    figures |= shown.shares()
    times = {"search_ms": 1e3 * seconds["search_per_image"], "backbone_ms": 1e3 * seconds["backbone"] / images}
    return {"step": step, **{name: (figures | times)[name] for name in COLUMNS}}


def calibrate(writer: GalleryWriter, search: SearchSettings) -> None:
    """Calibrate a gallery for search settings, and store what was found."""
    calibration.store(writer, search, calibration.calibrate(writer.gallery, search, seconds=CALIBRATE_SECONDS))


class ShownRegions:
    """Counts the defects whose regions meet their masks, and the good images with a region."""

    def __init__(self) -> None:
        self._meet: list[bool] = []
        self._good: list[bool] = []

    def __call__(self, judged: Judged) -> None:
        """Count an image."""
        regions = regions_of(judged.detection, judged.geometry) or []
        if judged.kind == GOOD:
            self._good.append(bool(regions))
        elif judged.mask is not None and judged.mask.any():
            found = mask(regions, judged.geometry).resize(judged.mask.shape[::-1], Image.Resampling.BOX)
            self._meet.append(bool((np.asarray(found) > 0)[judged.mask].any()))

    def shares(self) -> dict[str, float]:
        """Return the shares of both."""
        counted = {"regions_meeting_masks": self._meet, "good_with_regions": self._good}
        return {name: float(np.mean(seen)) if seen else float("nan") for name, seen in counted.items()}


def audited(dataset: Path, backbone: Backbone, path: Path) -> Figures:
    """Build a gallery with some of the test set's defects among the normal images; say how many an audit finds."""
    normal = find_dataset(dataset).require_normal()
    slipped = defects(dataset, round(SLIPPED * len(normal) / (1 - SLIPPED)))
    with GalleryWriter(path, backbone.settings) as writer:
        writer.add(iter([*normal, *slipped]), backbone)
        writer.build_index()
        tune_and_calibrate(writer, backbone)
        found = audit(writer.gallery, len(writer.gallery))
    ids, first = {file.id for file in slipped}, round(FIRST * len(found.odd))
    ranks = [rank for rank, image in enumerate(found.odd, 1) if image.id in ids]
    return {"images": found.scored, "slipped": len(ranks), "first": first, "ranks": ranks}


def defects(dataset: Path, count: int) -> list[ImageFile]:
    """Return `count` of a test set's defective images, of all kinds in turns, drawn at random."""
    of_kind: dict[str, list[ImageFile]] = {}
    for image in find_test_images(dataset):
        if image.kind != GOOD:
            of_kind.setdefault(image.kind, []).append(replace(image.file, id=f"slipped/{image.kind}/{image.file.id}"))
    random = np.random.default_rng(0)
    drawn = [[of[place] for place in random.permutation(len(of))] for _, of in sorted(of_kind.items())]
    return [file for file in chain.from_iterable(zip_longest(*drawn)) if file is not None][:count]


def loader(name: str) -> Callable[..., Backbone]:
    """Return a function that loads a backbone with an input size and a stored grid."""

    def load(size: tuple[int, int] | None = None, grid: int | None = None) -> Backbone:
        return load_backbone(
            name, stored_grid=grid, preprocessing=lambda own: replace(own, input_size=size or own.input_size)
        )

    return load


def backbones(dataset: Path, name: str) -> tuple[Backbone, Backbone]:
    """Return a backbone at its usual input size, and at the one that `build` chooses for a dataset."""
    load = loader(name)
    usual, normal = load(), find_dataset(dataset).require_normal()
    return usual, choose_input_size(normal, usual, load, seconds=TUNE_SECONDS / 2).backbone


@click.command(help=__doc__)
@click.argument("datasets", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--backbone", default="efficientnet-lite0", show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(datasets: tuple[Path, ...], backbone: str, json_file: Path | None) -> None:
    """Measure every dataset, print a table of each, and write the figures."""
    figures: Figures = {**environment(), "datasets": {}}
    for dataset in datasets:
        usual, chosen = backbones(dataset, backbone)
        with tempfile.TemporaryDirectory(prefix="spade-index-") as work:
            rows = list(ablate(dataset, usual, chosen, Path(work)))
            slipped = audited(dataset, chosen, Path(work) / "audited")
        figures["datasets"][dataset.name] = {"steps": rows, "audit": slipped}
        cells = [[row["step"], *(f"{row[column]:.3f}" for column in COLUMNS)] for row in rows]
        click.echo("\n".join([dataset.name, *table([["step", *COLUMNS], *cells])]))
        early = sum(rank <= slipped["first"] for rank in slipped["ranks"])
        click.echo(f"audit: {early} of {slipped['slipped']} defects are in the first {slipped['first']} images\n")
        write_json(json_file, figures)


if __name__ == "__main__":
    main()
