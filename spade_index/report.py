"""What people look at: heat maps over the original image, and a page of examples with their evidence.

A page is one HTML file with its pictures inside: it can be mailed, archived and opened with no network.
"""

import base64
import io
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

if TYPE_CHECKING:
    from spade_index.images import Geometry

# Equally spaced colours of matplotlib's `inferno` (CC0): lightness rises evenly, also for colour-blind eyes. Its
# darkest quarter is left out: laid over a dark image it would not be seen.
ANCHORS = ("#57106e", "#8a226a", "#bc3754", "#e35933", "#f98c0a", "#f9c932", "#fcffa4")


def _shades() -> NDArray[np.uint8]:
    """[256, 3] RGB, from the first anchor to the last."""
    anchors = np.array([ImageColor.getrgb(anchor) for anchor in ANCHORS])
    places = np.linspace(0, len(anchors) - 1, 256)
    channels = [np.interp(places, np.arange(len(anchors)), channel) for channel in anchors.T]
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8)


SHADES = _shades()

OUTSIDE_DIMMED = 0.35
PICTURE_EDGE = 320
SMALLEST_EDGE = 160
COLUMNS = ("Image", "Heat map", "Ground truth", "Nearest normal image")

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


def colourise(values: ArrayLike, limits: tuple[float, float]) -> NDArray[np.uint8]:
    """Colours from dark (low) to bright (high), evenly spaced to the eye.

    Args:
        values: [H, W] numbers; those outside the limits are clipped.
        limits: (low, high); where both are equal, whatever exceeds them is bright.

    Returns:
        [H, W, 3] uint8, RGB.
    """
    return SHADES[np.rint(_fraction(np.asarray(values), limits) * 255).astype(np.uint8)]


def score_limits(scores: Iterable[ArrayLike], threshold: float | None = None) -> tuple[float, float]:
    """Limits (low, high) shared by the heat maps of a page, so that equal colours mean equal scores.

    Low is what most of the calmest image scores; high is the upper quartile of the images' maxima. With a threshold,
    high is held where the threshold lies between a third and half of the scale: normal images do not look alarming,
    and one extreme defect does not darken the others.

    Args:
        scores: score maps [H, W], or just their maxima.
        threshold: of the score map's values; without effect where even the calmest image exceeds it.
    """
    arrays = [array for array in map(np.asarray, scores) if array.size]
    # A lone maximum says nothing of the quiet places; half of it keeps those of the calmest image dark.
    quiet = [float(array) / 2 if array.ndim == 0 else float(np.median(array)) for array in arrays]
    low = min(quiet, default=0.0)
    high = float(np.quantile([array.max() for array in arrays], 0.75)) if arrays else low + 1.0
    if threshold is not None and threshold > low:
        high = min(max(high, low + 2 * (threshold - low)), low + 3 * (threshold - low))
    return low, high


def heatmap(
    image: Image.Image,
    score_map: NDArray[np.float32],
    geometry: "Geometry",
    limits: tuple[float, float],
    opacity: float = 0.5,
) -> Image.Image:
    """The score map laid over the image it belongs to, where it belongs.

    Normal places stay visible: the overlay grows from transparent at the low limit to nearly opaque at the high one.
    What the backbone did not see, outside `geometry.box`, is dimmed.

    Args:
        image: the upright original, RGB; a smaller copy of it serves as well.
        score_map: [h, w] float32, covering `geometry.box`.
        geometry: the original's size and the box, in its pixels.
        limits: (low, high) of the colour scale.
        opacity: of the overlay half-way between the limits, 0..1.

    Returns:
        RGB, of the image's size.
    """
    scores, seen = _on_image(score_map, geometry, image.size)
    overlay = colourise(scores, limits)
    overlay[~seen] = 0
    level = _fraction(scores, limits)
    cover = np.where(seen, 1 - (1 - opacity) ** (2 * level), OUTSIDE_DIMMED)
    blend = Image.fromarray(np.rint(cover * 255).astype(np.uint8))
    return Image.composite(Image.fromarray(overlay), image.convert("RGB"), blend)


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


def _fraction(values: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.float32]:
    """Where values lie between the limits, 0..1."""
    low, high = limits
    if high <= low:
        return (values > high).astype(np.float32)
    return np.clip((values.astype(np.float32) - low) / (high - low), 0, 1)


def _on_image(
    score_map: NDArray[np.float32], geometry: "Geometry", size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The score map in the coordinates of an image of this (width, height): scores [H, W], and where it has any."""
    x_scale, y_scale = size[0] / geometry.width, size[1] / geometry.height
    left, right = geometry.box[0] * x_scale, geometry.box[2] * x_scale
    top, bottom = geometry.box[1] * y_scale, geometry.box[3] * y_scale
    field = Image.fromarray(np.ascontiguousarray(score_map, dtype=np.float32))
    # Sampling a large map at few points could miss a small peak; resize() looks at every value.
    covered = (max(1, math.ceil(right - left)), max(1, math.ceil(bottom - top)))
    field = field.resize((min(field.width, covered[0]), min(field.height, covered[1])), Image.Resampling.BILINEAR)
    across, down = field.width / (right - left), field.height / (bottom - top)
    to_field = (across, 0, -left * across, 0, down, -top * down)
    scores = field.transform(size, Image.Transform.AFFINE, to_field, Image.Resampling.BILINEAR)
    x, y = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
    seen = ((top <= y) & (y <= bottom))[:, None] & ((left <= x) & (x <= right))
    return np.asarray(scores), seen


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
            (COLUMNS[3], _data_uri(match, "JPEG"), f"Nearest normal image of {name}", example.match_id),
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
