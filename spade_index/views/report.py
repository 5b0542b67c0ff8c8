"""What people look at: a page of examples, each with its heat map and the evidence for it.

A page is one HTML file with its pictures inside: it can be mailed, archived and opened with no network.
"""

import base64
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image, ImageDraw, ImageFont

from spade_index.gallery.reader import Gallery
from spade_index.images.decode import Geometry
from spade_index.method.detection import Detection
from spade_index.method.evidence import worst_evidence

from .heatmap import ANCHORS, heatmap

PICTURE_EDGE = 320
SMALLEST_EDGE = 240  # smaller pictures are enlarged
COLUMNS = ("Image", "Heat map", "Ground truth", "Matched normal image")

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined
)


@dataclass(frozen=True)
class Table:
    """A table of a report; numbers are written with three decimals and right-aligned, None as a dash."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]


@dataclass(frozen=True)
class Example:
    """One judged image with its evidence. Pictures may have any size; places are in their own pixels."""

    image_id: str
    kind: str  # "good", or what is wrong: "crack"
    image: Image.Image
    score: float
    threshold: float | None = None
    verdict: str | None = None  # "anomalous" and "normal" are coloured; other words are shown as they are
    heatmap: Image.Image | None = None
    mask: Image.Image | None = None
    match: Image.Image | None = None  # the normal image with the matched place
    match_id: str | None = None
    worst: tuple[float, float] | None = None  # pixel (x, y) of `image`
    matched: tuple[float, float] | None = None  # pixel (x, y) of `match`
    neighbours: Sequence[tuple[str, float]] = ()  # (id, distance), nearest first


def example_of(
    gallery: Gallery,
    detection: Detection,
    image: Image.Image,
    image_id: str,
    geometry: Geometry,
    limits: tuple[float, float],
    *,
    kind: str = "",
    mask: Image.Image | None = None,
) -> Example:
    """What to show of a detection in `image`, its upright original; `limits` are those of the heat maps."""
    verdict = {None: None, True: "anomalous", False: "normal"}[detection.anomalous]
    shown = Example(
        image_id,
        kind,
        image,
        detection.score,
        detection.threshold,
        verdict,
        mask=mask,
        neighbours=[(neighbour.id, neighbour.distance) for neighbour in detection.neighbours],
    )
    evidence = worst_evidence(gallery, detection, geometry)
    if detection.pixels is None or evidence is None:
        return shown
    row = gallery.image(evidence.neighbour)
    thumbnail = Image.open(io.BytesIO(gallery.thumbnail(row)))
    x, y = evidence.neighbour_pixel
    return replace(
        shown,
        heatmap=heatmap(image, detection.pixels.score_map, geometry, limits),
        worst=evidence.pixel,
        match=thumbnail,
        match_id=evidence.neighbour,
        matched=(x * thumbnail.width / row.width, y * thumbnail.height / row.height),
    )


def mark(image: Image.Image, xy: tuple[float, float], size: float) -> Image.Image:
    """A copy of the image with a box around the place `xy`; `size` is the box's edge; all in pixels.

    White with a black outline: visible on any image. A box that would leave the image is moved inside.
    """
    marked = image.convert("RGB")
    line = max(1, round(max(image.size) / 160))
    left, top = (
        min(max(place - size / 2, line), max(extent - size - 1 - line, line))
        for place, extent in zip(xy, image.size, strict=True)
    )
    draw = ImageDraw.Draw(marked)
    for colour, grown, width in (("black", line, 3 * line), ("white", 0, line)):
        box = (left - grown, top - grown, left + size + grown, top + size + grown)
        draw.rectangle(box, outline=colour, width=width)
    return marked


def write_report(
    path: str | Path,
    *,
    title: str,
    summary: Sequence[tuple[str, Any]],
    tables: Sequence[Table] = (),
    examples: Sequence[Example] = (),
    limits: tuple[float, float] | None = None,
) -> None:
    """Write one self-contained HTML page; an earlier file is replaced only by a complete one.

    Args:
        path: where to; missing folders are made.
        title: of the page.
        summary: (name, value) facts, shown first.
        tables: shown next, in order.
        examples: one row of pictures each, about 80 kB.
        limits: (low, high) of the heat maps, for the legend of the colour scale.

    Raises:
        OSError: the file cannot be written.
    """
    page = TEMPLATES.get_template("report.html").render(
        title=title,
        summary=[(name, _text(value)) for name, value in summary],
        tables=[_table_cells(table) for table in tables],
        examples=[_example_cells(example) for example in examples],
        colours=ANCHORS,
        limits=None if limits is None else [_text(limit) for limit in limits],
    )
    _write_whole(Path(path), page.encode("utf-8", errors="replace"))


def montage(examples: Sequence[Example], path: str | Path, edge: int = 220) -> None:
    """Write a PNG with a row of pictures for each example: image, heat map, ground truth, nearest normal image.

    Args:
        examples: at least one.
        path: where to; missing folders are made.
        edge: of one picture, in pixels.

    Raises:
        OSError: the file cannot be written.
    """
    gap, label, head = 12, 24, 30
    size = (gap + len(COLUMNS) * (edge + gap), head + len(examples) * (edge + label + gap))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(COLUMNS):
        draw.text((gap + column * (edge + gap), 7), name, fill="#1b1f24", font=ImageFont.load_default(15))
    for row, example in enumerate(examples):
        captions = (example.kind, f"score {_text(example.score)}", "", example.match_id or "")
        for column, (picture, caption) in enumerate(zip(_pictures(example, edge), captions, strict=True)):
            left, top = gap + column * (edge + gap), head + row * (edge + label + gap)
            draw.rectangle((left, top, left + edge - 1, top + edge - 1), fill="#f0f1f3")
            if picture is not None:
                sheet.paste(picture, (left + (edge - picture.width) // 2, top + (edge - picture.height) // 2))
            # The end of a long id tells more than its beginning.
            text = caption if len(caption) <= edge // 7 else "…" + caption[1 - edge // 7 :]
            draw.text((left, top + edge + 3), text, fill="#57606a", font=ImageFont.load_default(13))
    _write_whole(Path(path), _encoded(sheet, "PNG"))


def _pictures(example: Example, edge: int) -> list[Image.Image | None]:
    """The pictures of COLUMNS, no larger than `edge`, RGB, places marked; None where there is none."""

    def fitted(picture: Image.Image | None, place: tuple[float, float] | None = None) -> Image.Image | None:
        if picture is None:
            return None
        longest = max(picture.size)
        scale = min(max(longest, min(SMALLEST_EDGE, edge)), edge) / longest
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        small = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        if place is None:
            return small
        return mark(small, ((place[0] + 0.5) * scale, (place[1] + 0.5) * scale), max(size) / 9)

    return [
        fitted(example.image, example.worst),
        fitted(example.heatmap),
        fitted(example.mask),
        fitted(example.match, example.matched),
    ]


def _example_cells(example: Example) -> dict[str, Any]:
    image, heat, mask, match = _pictures(example, PICTURE_EDGE)
    name, kind = example.image_id, example.kind
    return {
        "name": name,
        "kind": kind,
        "score": _text(example.score),
        "threshold": None if example.threshold is None else _text(example.threshold),
        "verdict": example.verdict,
        "neighbours": [(neighbour, _text(distance)) for neighbour, distance in example.neighbours],
        "pictures": [
            (COLUMNS[0], _data_uri(image, "JPEG"), f"{name}, {kind}", None),
            (COLUMNS[1], _data_uri(heat, "JPEG"), f"Heat map of {name}", None),
            (COLUMNS[2], _data_uri(mask, "PNG"), f"Ground truth of {name}: defects are white", None),
            (COLUMNS[3], _data_uri(match, "JPEG"), f"Normal image matched with {name}", example.match_id),
        ],
    }


def _table_cells(table: Table) -> dict[str, Any]:
    numeric = [
        all(row[column] is None or not isinstance(row[column], str) for row in table.rows)
        for column in range(len(table.columns))
    ]
    rows = [[_text(value) for value in row] for row in table.rows]
    return {"title": table.title, "columns": table.columns, "numeric": numeric, "rows": rows}


def _text(value: Any) -> str:
    """A value for people: three decimals, or three digits where these would show nothing; a dash for none."""
    if not isinstance(value, float | np.floating):
        return "–" if value is None else str(value)
    number = float(value)
    if math.isnan(number):
        return "–"
    return f"{number:.3f}" if number == 0 or abs(number) >= 0.001 else f"{number:.3g}"


def _encoded(picture: Image.Image, file_format: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, quality=85, optimize=True)
    return buffer.getvalue()


def _data_uri(picture: Image.Image | None, file_format: str) -> str | None:
    if picture is None:
        return None
    data = base64.b64encode(_encoded(picture, file_format)).decode("ascii")
    return f"data:image/{file_format.lower()};base64,{data}"


def _write_whole(path: Path, data: bytes) -> None:
    """Under another name first: a reader, or a crash, never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
