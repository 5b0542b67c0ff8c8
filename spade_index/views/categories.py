"""The figures of several categories, as text and as a page."""

from pathlib import Path
from typing import Any

from .report import Table, write_report

COLUMNS = {  # heads, and their columns of text, by the names of figures
    "image_roc_auc": ("ROC AUC", "ROC AUC"),
    "image_average_precision": ("AP", "AP"),
    "image_f1_max": ("F1-max", "F1-max"),
    "pixel_roc_auc": ("Pixel ROC AUC", "ROC AUC"),
    "pixel_average_precision": ("Pixel AP", "AP"),
    "pixel_f1_max": ("Pixel F1-max", "F1-max"),
    "pro": ("PRO", "0.30"),
    "pro_05": ("PRO to 0.05", "0.05"),
    "spro": ("sPRO", "sPRO"),
    "spro_05": ("sPRO to 0.05", "to 0.05"),
    "hit_rate": ("Hits", "hits"),
    "false_alarm_rate": ("False alarms", "alarms"),
}


def text_of_categories(together: dict[str, Any]) -> str:
    """Return the figures of several categories as a table of text, with their means."""
    names = _columns(together)
    width = max(16, *(len(name) for name in together["categories"]))
    lines = [
        f"{'':{width + 7}}{'image':>27}{'pixel':>27}{'PRO to':>18}",
        f"{'':{width}}{'images':>7}" + "".join(f"{COLUMNS[name][1]:>9}" for name in names),
    ]
    for name, count, *values in _rows(together):
        cells = ("-" if value is None else f"{value:.4f}" for value in values)
        lines.append(f"{name:{width}}{count:>7}" + "".join(f"{cell:>9}" for cell in cells))
    for name, count in together["mean"].get("of_categories", {}).items():
        lines.append(f"the mean of {name} is over the {count} categories that have it")
    reasons = {of["why_no_pixel_figures"] for of in together["categories"].values()} - {None}
    lines += [f"where there are no figures of pixels, {reason}" for reason in sorted(reasons)]
    return "\n".join(lines)


def write_categories(path: Path, title: str, together: dict[str, Any]) -> None:
    """Write a page with the figures of several categories; each has a page of its own beside it."""
    names = _columns(together)
    mean = together["mean"]
    write_report(
        path,
        title=title,
        summary=[
            ("Categories", mean["categories"]),
            ("Test images", mean["images"]),
            *((f"Mean {COLUMNS[name][0]}", mean[name]) for name in names),
            ("Layout", together["layout"]),
            ("Pages of categories", f"{path.stem}.CATEGORY{path.suffix}"),
        ],
        tables=[Table("By category", ["Category", "Images", *(COLUMNS[name][0] for name in names)], _rows(together))],
    )


def _columns(together: dict[str, Any]) -> list[str]:
    return [name for name in COLUMNS if name in together["mean"]]


def _rows(together: dict[str, Any]) -> list[list[Any]]:
    names = _columns(together)
    rows = [
        [name, str(of["images"]), *(of.get(figure) for figure in names)] for name, of in together["categories"].items()
    ]
    mean = together["mean"]
    return [*rows, ["mean", str(mean["images"]), *(mean[figure] for figure in names)]]
