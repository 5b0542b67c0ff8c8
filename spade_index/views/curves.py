"""The charts of an evaluation: ROC curves, PRO, and a histogram of the image scores."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from spade_index.method.evaluation import Evaluation
from spade_index.method.labelled import GOOD
from spade_index.method.metrics import PRO_LIMIT, image_curve
from spade_index.settings import ImageScore

from .charts import Chart, Line, histogram
from .text import text_of


def charts_of(evaluation: Evaluation, figures: dict[str, Any], threshold: float | None) -> Iterator[Chart]:
    """Yield the charts of an evaluation; those of pixels only where there are masks."""
    score: ImageScore = figures["image_score"]
    groups = [evaluation.outcomes.scores(score, kinds) for kinds in ([GOOD], evaluation.kinds)]
    yield histogram(
        "Image scores",
        f"score ({score})",
        [("good", "good", groups[0]), ("defective", "bad", groups[1])],
        threshold,
    )
    false, true, _ = image_curve(*groups).rates()
    rates = figures["false_alarm_rate"], figures["hit_rate"]
    yield Chart(
        f"Images: ROC AUC {text_of(figures['image_roc_auc'])}",
        "false alarms",
        "hits",
        [Line("ROC", false, true)],
        dots=[("at the threshold", *rates)] if None not in rates else (),
    )
    if figures["why_no_pixel_figures"] is not None:
        return
    curve = evaluation.tally().curve()
    false, true, overlap = curve.rates()
    yield Chart(
        f"Pixels: ROC AUC {text_of(figures['pixel_roc_auc'])}",
        "false positive rate",
        "true positive rate",
        [Line("ROC", false, true)],
    )
    lines = [Line("PRO", *_until(false, overlap))]
    if "spro" in figures:
        lines.append(Line("sPRO", *_until(false, curve.saturation()), style="second"))
    yield Chart(
        f"Regions: PRO {text_of(figures['pro'])}",
        "false positive rate",
        "mean overlap with regions",
        lines,
        x_limits=(0.0, PRO_LIMIT),
    )


def _until(false: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the part of a curve up to the false positive rate where PRO ends."""
    inside = false <= PRO_LIMIT
    last = np.interp(PRO_LIMIT, false, found)
    return np.append(false[inside], PRO_LIMIT), np.append(found[inside], last)
