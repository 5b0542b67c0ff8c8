"""A page of examples, each with its heat map and the evidence for its verdict.

A page is one HTML file with its pictures inside: it can be mailed, archived and opened without a network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .charts import Chart
from .example import CLOSE_UP, HEAT_MAP, IMAGE, MATCH, TRUTH, Example, columns_of, pictures_of
from .files import data_uri, uri_of, write_whole
from .heatmap import ANCHORS
from .text import text_of

PICTURE_EDGE = 320  # pixels, at most
LONG = 40  # characters of a fact, from which it takes a line of its own

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined
)


@dataclass(frozen=True)
class Table:
    """A table of a report; numbers have three decimals and are right-aligned, None is a dash."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]


@dataclass(frozen=True)
class Group:
    """Examples under a heading of their own."""

    title: str
    intro: str
    examples: Sequence[Example]


def write_report(
    path: str | Path,
    *,
    title: str,
    summary: Sequence[tuple[str, Any]],
    tables: Sequence[Table] = (),
    charts: Sequence[Chart] = (),
    groups: Sequence[Group] = (),
    examples: Sequence[Example] = (),
    limits: tuple[float, float] | None = None,
    truth: bool = True,
) -> None:
    """Write one HTML page that needs no other file; an earlier file is replaced only by a complete one.

    Args:
        path: of the page; missing folders are made.
        title: of the page.
        summary: (name, value) pairs, shown first.
        tables: shown next, in this order.
        charts: shown next.
        groups: of examples, shown next.
        examples: a row of pictures for each, about 80 kB.
        limits: (low, high) of the heat maps, for the legend of the colour scale.
        truth: whether there is ground truth, which has a column of its own.

    Raises:
        OSError: the file cannot be written.
    """
    every = [*examples, *(example for group in groups for example in group.examples)]
    columns = [column for column in columns_of(every) if column != TRUTH or truth]
    page = TEMPLATES.get_template("report.html").render(
        title=title,
        summary=[(name, text, len(text) > LONG) for name, value in summary for text in [text_of(value)]],
        tables=[_table_cells(table) for table in tables],
        charts=[(chart.title, chart.svg()) for chart in charts],
        groups=[
            (group.title, group.intro, [_example_cells(example, columns) for example in group.examples])
            for group in (*groups, Group("Examples", "", examples))
            if group.examples
        ],
        colours=ANCHORS,
        limits=None if limits is None else [text_of(limit) for limit in limits],
    )
    write_whole(Path(path), page.encode("utf-8", errors="replace"))


def _example_cells(example: Example, columns: Sequence[str]) -> dict[str, Any]:
    shown = pictures_of(example, PICTURE_EDGE)
    name, kind = example.image_id, example.kind
    pictures = [
        (IMAGE, data_uri(shown[IMAGE], "JPEG"), f"{name}, {kind}" if kind else name, None),
        (HEAT_MAP, data_uri(shown[HEAT_MAP], "JPEG"), f"Heat map of {name}", None),
        (CLOSE_UP, data_uri(shown[CLOSE_UP], "JPEG"), f"The worst place of {name}, close up", None),
        (TRUTH, data_uri(shown[TRUTH], "PNG"), f"Ground truth of {name}: defects are white", None),
        (MATCH, data_uri(shown[MATCH], "JPEG"), f"Normal image matched with {name}", example.match_id),
    ]
    return {
        "name": name,
        "kind": kind,
        "score": text_of(example.score),
        "threshold": None if example.threshold is None else text_of(example.threshold),
        "meaning": example.meaning,
        "verdict": example.verdict,
        "regions": len(example.regions),
        "alikes": [
            (one.place, one.words, None if one.picture is None else uri_of(one.picture, "JPEG"))
            for one in example.alikes
        ],
        "neighbours": [(neighbour, text_of(distance)) for neighbour, distance in example.neighbours],
        "pictures": [picture for picture in pictures if picture[0] in columns],
    }


def _table_cells(table: Table) -> dict[str, Any]:
    numeric = [
        all(row[column] is None or not isinstance(row[column], str) for row in table.rows)
        for column in range(len(table.columns))
    ]
    rows = [[text_of(value) for value in row] for row in table.rows]
    return {"title": table.title, "columns": table.columns, "numeric": numeric, "rows": rows}
