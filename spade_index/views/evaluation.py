"""An evaluation as text and as a page."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from spade_index.images.decode import decode
from spade_index.method.dataset import GOOD
from spade_index.method.detector import Detector
from spade_index.method.evaluation import SCORES, Evaluation, Judged
from spade_index.method.regions import regions_of

from .example import Example, example_of
from .heatmap import score_limits
from .report import Table, write_report

EXAMPLES_PER_KIND = 4  # on the page
COLUMNS = ("Images", *(f"ROC AUC, {score}" for score in SCORES), "Pixel ROC AUC", "PRO")


def text_of(figures: dict[str, Any]) -> str:
    """Return the figures of an evaluation as a table of text."""
    lines = [
        f"{'':23}{'image ROC AUC by score':>27}{'ROC AUC':>9}",
        f"{'':16}{'images':>7}{'pooled':>9}{'map':>9}{'both':>9}{'pixel':>9}{'PRO':>9}",
    ]
    for name, count, *values in rows_of(figures):
        lines.append(f"{name:16.16}{count:>7}" + "".join(f"{value:9.4f}" for value in values))
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
        rows.append([name, str(of["images"]), *by_score, of["pixel_roc_auc"], of["pro"]])
    return rows


def write_evaluation(
    path: Path, title: str, detector: Detector, evaluation: Evaluation, figures: dict[str, Any]
) -> None:
    """Write the page of an evaluation: its figures, and examples of each kind of defect."""
    limits = score_limits([judged.score_map for judged in evaluation.judged], detector.pixel_threshold)
    write_report(
        path,
        title=title,
        summary=[
            ("Image ROC AUC", figures["image_roc_auc"]),
            ("Pixel ROC AUC", figures["pixel_roc_auc"]),
            ("PRO (to 30 % false positives)", figures["pro"]),
            ("Hits", figures["hit_rate"]),
            ("False alarms", figures["false_alarm_rate"]),
            ("Image score", figures["image_score"]),
            ("Test images", figures["images"]),
            ("Gallery", f"{figures['gallery']['images']:,} images"),
            ("Backbone", figures["settings"]["backbone"]),
            ("Search per image", f"{1e3 * figures['seconds']['search_per_image']:.0f} ms"),
        ],
        tables=[Table("By kind of defect", ["Kind", *COLUMNS], rows_of(figures))],
        examples=examples_of(detector, evaluation, EXAMPLES_PER_KIND, limits),
        limits=limits,
    )


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
    image = judged.image
    return example_of(
        detector.gallery,
        judged.detection,
        decode(image.file.read(), image.file.path, how=detector.gallery.settings.preprocessing),
        image.file.id,
        judged.geometry,
        limits,
        kind=image.kind,
        mask=None if image.mask is None else Image.open(image.mask),
        regions=regions_of(judged.detection, judged.geometry) or (),
    )
