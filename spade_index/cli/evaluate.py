"""What `spade-index evaluate` does: a gallery of train/good unless one is given, figures, a page."""

import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from spade_index.errors import InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery.reader import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images.decode import decode
from spade_index.images.find import find_images
from spade_index.method.detector import Detector
from spade_index.method.evaluation import GOOD, Evaluation, TestImage, evaluate, test_images
from spade_index.settings import PAPER_METRIC_SIZE
from spade_index.views.heatmap import score_limits
from spade_index.views.report import Example, Table, example_of, write_report

from .options import Progress, make_backbone, make_kernel, make_search

EXAMPLES_PER_KIND = 4  # on the page
SCORES = ("pooled", "map", "both")


def run(dataset: Path, given: Path | None, options: dict[str, Any]) -> None:
    """Evaluate a dataset, print the figures, write what was asked for; `options` are the command's."""
    json_file, report = options["json_file"], options["report"]
    metric_size = options["metric_size"] or (PAPER_METRIC_SIZE if options["preset"] == "paper" else None)
    images = test_images(dataset)
    with ExitStack() as stack:
        there = stack.enter_context(Gallery(given)) if given is not None else None
        backbone = make_backbone(dict(options), there)
        search = make_search(options)
        building = 0.0
        if there is None:
            started = time.perf_counter()
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="spade-index-"))
            there = stack.enter_context(build_gallery(dataset, Path(folder) / "gallery", backbone, options))
            building = time.perf_counter() - started
        detector = Detector(there, backbone, search, **make_kernel(options))
        Progress.note(f"pixel search by {detector.kernel}")
        with Progress("evaluate", len(images)) as progress:
            evaluation = evaluate(
                detector,
                images,
                metric_size=metric_size,
                batch_size=options["batch_size"],
                workers=options["workers"],
                notice=progress.say,
                progress=progress,
            )
        figures = {
            "dataset": str(dataset),
            **evaluation.summary(detector.kind),
            "gallery": {"images": len(there), "snapshot": there.snapshot, "seconds": building},
            "search": asdict(search) | {"image_score": detector.kind},
            "kernel": str(detector.kernel),
            "map_pool": detector.map_pool.info(),
            "settings": asdict(there.settings),
        }
        click.echo(table_of(figures))
        if json_file is not None:
            strict = json.loads(json.dumps(figures), parse_constant=lambda name: None)  # JSON has no NaN
            json_file.write_text(json.dumps(strict, indent=2) + "\n")
        if report is not None:
            write_evaluation(report, f"Evaluation of {dataset.resolve().name}", detector, evaluation, figures)


def build_gallery(dataset: Path, path: Path, backbone: Backbone, options: dict[str, Any]) -> Gallery:
    """A gallery of a dataset's train/good."""
    normal = dataset / "train" / "good"
    if not normal.is_dir():
        raise InputError(f"{normal}: no such folder: a dataset in MVTec layout has one (or give --gallery)")
    with GalleryWriter(path, backbone.settings) as writer, Progress("build") as progress:
        writer.add(
            find_images(normal),
            backbone,
            batch_size=options["batch_size"],
            workers=options["workers"],
            notice=progress.say,
            progress=progress,
        )
        if not len(writer.gallery):
            raise InputError(f"{normal}: no images in it (JPEG, PNG, BMP, TIFF, WebP)")
        writer.build_index()
    return Gallery(path)


def rows_of(figures: dict[str, Any]) -> list[list[Any]]:
    """Figures as rows: name, images, image ROC AUC by each score, pixel ROC AUC, PRO; all kinds last."""
    rows = []
    for name, of in [*figures["kinds"].items(), ("all", figures)]:
        by_score = [of["image_roc_auc_by_score"][score] for score in SCORES]
        rows.append([name, str(of["images"]), *by_score, of["pixel_roc_auc"], of["pro"]])
    return rows


def table_of(figures: dict[str, Any]) -> str:
    """Figures as text."""
    head = f"{'':16}{'images':>7}{'pooled':>9}{'map':>9}{'both':>9}{'pixel':>9}{'PRO':>9}"
    lines = [
        f"{name:16.16}{count:>7}" + "".join(f"{value:9.4f}" for value in values)
        for name, count, *values in rows_of(figures)
    ]
    lines += ["", f"{'score neighbours':>23}{'pooled':>9}{'':9}{'both':>9}"]
    for k, of in figures["image_roc_auc_by_score_neighbours"].items():
        lines.append(f"{k:23}{of['pooled']:9.4f}{'':9}{of['both']:9.4f}")
    seconds = figures["seconds"]
    backbone = 1e3 * seconds["backbone"] / figures["images"]
    search = 1e3 * seconds["search_per_image"]
    return "\n".join(
        [
            f"{'':23}{'image ROC AUC by score':>27}{'ROC AUC':>9}",
            head,
            *lines,
            "",
            f"image score: {figures['image_score']}; per image: backbone {backbone:.0f} ms, search {search:.0f} ms",
        ]
    )


def examples_of(
    detector: Detector, evaluation: Evaluation, per_kind: int, limits: tuple[float, float]
) -> list[Example]:
    """Examples of each kind, evenly spaced by score, the highest first."""
    chosen: list[int] = []
    for kind in [*evaluation.kinds, GOOD]:
        places = [place for place, image in enumerate(evaluation.images) if image.kind == kind]
        places.sort(key=lambda place: -evaluation.detections[place].score)
        spread = np.linspace(0, len(places) - 1, min(per_kind, len(places))).round().astype(int)
        chosen += [places[position] for position in spread]
    return [_example(detector, evaluation, place, limits) for place in chosen]


def write_evaluation(
    path: Path, title: str, detector: Detector, evaluation: Evaluation, figures: dict[str, Any]
) -> None:
    """The page of an evaluation."""
    limits = score_limits(evaluation.score_maps, detector.thresholds.get("map"))
    settings = figures["settings"]
    write_report(
        path,
        title=title,
        summary=[
            ("Image ROC AUC", figures["image_roc_auc"]),
            ("Pixel ROC AUC", figures["pixel_roc_auc"]),
            ("PRO (to 30 % false positives)", figures["pro"]),
            ("Image score", figures["image_score"]),
            ("Test images", figures["images"]),
            ("Gallery", f"{figures['gallery']['images']:,} images"),
            ("Backbone", settings["backbone"]),
            ("Search per image", f"{1e3 * figures['seconds']['search_per_image']:.0f} ms"),
        ],
        tables=[
            Table(
                "By kind of defect",
                ["Kind", "Images", *(f"ROC AUC, {score}" for score in SCORES), "Pixel ROC AUC", "PRO"],
                rows_of(figures),
            )
        ],
        examples=examples_of(detector, evaluation, EXAMPLES_PER_KIND, limits),
        limits=limits,
    )


def _example(detector: Detector, evaluation: Evaluation, place: int, limits: tuple[float, float]) -> Example:
    image: TestImage = evaluation.images[place]
    mask = Image.open(image.mask) if image.mask is not None else None
    return example_of(
        detector.gallery,
        evaluation.detections[place],
        decode(image.file.read(), image.file.path),
        image.file.id,
        evaluation.geometries[place],
        limits,
        kind=image.kind,
        mask=mask,
    )


def all_figures(evaluations: Sequence[tuple[str, dict[str, Any]]]) -> Table:
    """One row per dataset."""
    rows = [[name, *rows_of(figures)[-1][1:]] for name, figures in evaluations]
    columns = ["Dataset", "Images", *(f"ROC AUC, {score}" for score in SCORES), "Pixel ROC AUC", "PRO"]
    return Table("Figures", columns, rows)
