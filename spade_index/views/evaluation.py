"""An evaluation as text and as a page."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from spade_index.images.geometry import Geometry
from spade_index.images.mask_pixels import orientation_of
from spade_index.images.masks import read_mask
from spade_index.images.plain import picture_of
from spade_index.method.dataset import GOOD
from spade_index.method.detector import Detector
from spade_index.method.evaluation import Evaluation, Judged
from spade_index.method.outcomes import SCORES
from spade_index.method.regions import regions_of

from .curves import charts_of
from .example import Example, example_of
from .heatmap import score_limits
from .report import Group, Table, write_report
from .text import size_of

EXAMPLES_PER_KIND = 4  # on the page
CASES = 4  # best and worst cases of each sort
FIGURES = {  # columns of figures, by their names in a summary
    "image_average_precision": "AP",
    "image_f1_max": "F1-max",
    "pixel_roc_auc": "Pixel ROC AUC",
    "pixel_average_precision": "Pixel AP",
    "pixel_f1_max": "Pixel F1-max",
    "pro": "PRO",
    "pro_05": "PRO to 0.05",
}
COLUMNS = ("Images", *(f"ROC AUC, {score}" for score in SCORES), *FIGURES.values())


HEADS = (*SCORES, "AP", "F1-max", "ROC AUC", "AP", "F1-max", "0.30", "0.05")


def text_of(figures: dict[str, Any]) -> str:
    """Return the figures of an evaluation as a table of text."""
    lines = [
        f"{'':23}{'image ROC AUC by score':>27}{'image':>18}{'pixel':>27}{'PRO to':>18}",
        f"{'':16}{'images':>7}" + "".join(f"{name:>9}" for name in HEADS),
    ]
    for name, count, *values in rows_of(figures):
        lines.append(f"{name:16.16}{count:>7}" + "".join(f"{_cell(value):>9}" for value in values))
    if figures["why_no_pixel_figures"] is not None:
        lines += ["", f"no figures of pixels: {figures['why_no_pixel_figures']}"]
    for name in ("spro", "spro_05"):
        if name in figures:
            limit = "0.30" if name == "spro" else "0.05"
            lines += ["", f"saturating PRO (sPRO) to {limit}: {_cell(figures[name])}"]
    lines += ["", f"{'score neighbours':>23}{'pooled':>9}{'':9}{'both':>9}"]
    for k, of in figures["image_roc_auc_by_score_neighbours"].items():
        lines.append(f"{k:23}{of['pooled']:9.4f}{'':9}{of['both']:9.4f}")
    if figures["hit_rate"] is not None:
        lines += [
            "",
            f"at false alarms of {figures['false_alarms']:g} asked for: {figures['hit_rate']:.3f} of the defective "
            f"images are called anomalous, and {figures['false_alarm_rate']:.3f} of the good ones",
        ]
    backbone = 1e3 * figures["seconds"]["backbone"] / figures["images"]
    search = 1e3 * figures["seconds"]["search_per_image"]
    lines += [
        "",
        f"image score: {figures['image_score']}; per image: backbone {backbone:.0f} ms, search {search:.0f} ms",
    ]
    return "\n".join(lines)


def rows_of(figures: dict[str, Any]) -> list[list[Any]]:
    """Return a row for each kind of defect, and one for all kinds: name, then the values of COLUMNS."""
    rows = []
    for name, of in [*figures["kinds"].items(), ("all", figures)]:
        by_score = [of["image_roc_auc_by_score"][score] for score in SCORES]
        rows.append([name, str(of["images"]), *by_score, *(of[figure] for figure in FIGURES)])
    return rows


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def write_evaluation(
    path: Path, title: str, detector: Detector, evaluation: Evaluation, figures: dict[str, Any]
) -> None:
    """Write the page of an evaluation: its figures, and examples of each kind of defect."""
    limits = score_limits([judged.counted for judged in evaluation.judged], detector.pixel_threshold)
    threshold = evaluation.judged[0].detection.threshold
    write_report(
        path,
        title=title,
        summary=[
            ("Image ROC AUC", figures["image_roc_auc"]),
            ("Pixel ROC AUC", figures["pixel_roc_auc"]),
            ("PRO (to 30 % false positives)", figures["pro"]),
            ("PRO (to 5 %)", figures["pro_05"]),
            ("Hits", figures["hit_rate"]),
            ("False alarms", figures["false_alarm_rate"]),
            ("Image score", figures["image_score"]),
            ("Test images", figures["images"]),
            ("Not decoded", figures["not_decoded"]["count"]),
            ("Gallery", size_of(detector.gallery)),
            ("Backbone", figures["settings"]["backbone"]),
            ("Search per image", f"{1e3 * figures['seconds']['search_per_image']:.0f} ms"),
        ],
        tables=[Table("By kind of defect", ["Kind", *COLUMNS], rows_of(figures))],
        charts=list(charts_of(evaluation, figures, threshold)),
        groups=[
            Group(title, intro, [_example(detector, judged, limits) for judged in cases])
            for title, intro, cases in cases_of(evaluation)
        ],
        examples=examples_of(detector, evaluation, EXAMPLES_PER_KIND, limits),
        limits=limits,
    )


def cases_of(evaluation: Evaluation) -> list[tuple[str, str, list[Judged]]]:
    """Return the worst and the best cases: a heading, what they are, and the images."""
    by_score = sorted(evaluation.judged, key=lambda judged: judged.detection.score)
    good = [judged for judged in by_score if not judged.defective]
    defective = [judged for judged in by_score if judged.defective]
    return [
        ("Worst cases: defects", "Defective images with the lowest scores.", defective[:CASES]),
        ("Worst cases: good images", "Good images with the highest scores.", good[: -CASES - 1 : -1]),
        ("Best cases", "Defective images with the highest scores.", defective[: -CASES - 1 : -1]),
    ]


def examples_of(
    detector: Detector, evaluation: Evaluation, per_kind: int, limits: tuple[float, float]
) -> list[Example]:
    """Return examples of each kind, evenly spaced by score, the highest first."""
    chosen: list[Judged] = []
    for kind in [*evaluation.kinds, GOOD]:
        of_kind = [judged for judged in evaluation.judged if judged.kind == kind]
        of_kind.sort(key=lambda judged: -judged.detection.score)
        spread = np.linspace(0, len(of_kind) - 1, min(per_kind, len(of_kind))).round().astype(int)
        chosen += [of_kind[position] for position in spread]
    return [_example(detector, judged, limits) for judged in chosen]


def _example(detector: Detector, judged: Judged, limits: tuple[float, float]) -> Example:
    image, data = judged.image, judged.image.file.read()
    return example_of(
        detector.gallery,
        judged.detection,
        picture_of(image.file, detector.gallery.settings.preprocessing),
        image.file.id,
        judged.geometry,
        limits,
        kind=image.kind,
        mask=None if image.mask is None else _whole_mask(image.mask, judged.geometry, orientation_of(data)),
        regions=regions_of(judged.detection, judged.geometry) or (),
    )


def _whole_mask(path: Path, geometry: Geometry, orientation: int) -> Image.Image:
    """Return the mask of the whole image, white where defective, whatever its values."""
    width, height = geometry.width, geometry.height
    whole = replace(geometry, box=(0.0, 0.0, float(width), float(height)))
    mask = read_mask(path, whole, (height, width), orientation)
    return Image.fromarray(mask).convert("L")
