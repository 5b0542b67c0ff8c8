"""An image with its heat map, ground truth and evidence, as pictures for people to look at."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw

from spade_index.gallery.reader import Gallery
from spade_index.images.geometry import Geometry, place_of
from spade_index.images.tiles import tile_size
from spade_index.method.detection import Detection
from spade_index.method.evidence import worst_evidence
from spade_index.method.regions import Region
from spade_index.settings import Preprocessing

from .heatmap import heatmap
from .regions import outline
from .text import likeness_of, worse_than

IMAGE, HEAT_MAP, CLOSE_UP, TRUTH, MATCH = "Image", "Heat map", "Worst place", "Ground truth", "Matched normal image"
COLUMNS = (IMAGE, HEAT_MAP, CLOSE_UP, TRUTH, MATCH)
TOLD = 5  # regions of an image whose known defects are shown, those with the highest scores
SMALLEST_EDGE = 240  # pixels; smaller pictures are enlarged
KEPT_EDGE = 640  # pixels, at most, of the pictures of an example: a page has sixty, of any size


@dataclass(frozen=True)
class Alike:
    """A region of an image, and the known defect that it is most like."""

    place: tuple[int, int]  # pixel (x, y) of the original: the region's centre
    words: str
    picture: bytes | None  # a small JPEG of the known defect; None once that was taken back


@dataclass(frozen=True)
class Example:
    """A judged image with its evidence. Pictures may have any size; places are in their own pixels."""

    image_id: str
    kind: str  # "good", or what is wrong: "crack"
    image: Image.Image
    score: float
    threshold: float | None = None
    meaning: str | None = None  # of the score: "looks worse than 98 % of good parts"
    verdict: str | None = None  # "anomalous" and "normal" are coloured; other words are shown as they are
    heatmap: Image.Image | None = None
    close_up: Image.Image | None = None  # of a picture in tiles: as much around its worst place as a tile shows
    mask: Image.Image | None = None
    match: Image.Image | None = None  # the normal image with the matched place
    match_id: str | None = None
    worst: tuple[float, float] | None = None  # pixel (x, y) of `image`
    worst_close: tuple[float, float] | None = None  # pixel (x, y) of `close_up`
    matched: tuple[float, float] | None = None  # pixel (x, y) of `match`
    neighbours: Sequence[tuple[str, float]] = ()  # (id, distance), nearest first
    regions: Sequence[Region] = ()  # in pixels of the original
    geometry: Geometry | None = None  # of the original; needed to outline regions
    alikes: Sequence[Alike] = ()  # of regions, where the gallery knows defects


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
    regions: Sequence[Region] = (),
) -> Example:
    """Return what to show of a detection.

    Args:
        gallery: that the image was compared with.
        detection: of the image.
        image: the upright original, RGB.
        image_id: its name on the page.
        geometry: where the backbone's input lies in the image.
        limits: (low, high) of the heat map's colours.
        kind: "good", or the kind of defect.
        mask: the ground truth.
        regions: outlined on the heat map.
    """
    original, size = image, image.size
    image, mask = _at_most(image, KEPT_EDGE), None if mask is None else _at_most(mask, KEPT_EDGE)
    verdict = {None: None, True: "anomalous", False: "normal"}[detection.anomalous]
    shown = Example(
        image_id,
        kind,
        image,
        detection.score,
        detection.threshold,
        None if detection.p_value is None else worse_than(detection.p_value),
        verdict,
        mask=mask,
        neighbours=[(neighbour.id, neighbour.distance) for neighbour in detection.neighbours],
        regions=regions,
        geometry=geometry,
        alikes=_alikes(gallery, regions),
    )
    evidence = worst_evidence(gallery, detection, geometry)
    if detection.pixels is None or evidence is None:
        return shown
    row = gallery.image(evidence.neighbour)
    thumbnail = Image.open(io.BytesIO(gallery.thumbnail(row)))
    x, y = evidence.neighbour_pixel
    left, top, right, bottom = place_of(row.id, row.width, row.height, gallery.settings.preprocessing).box
    close_up, worst_close = _close_up(original, evidence.pixel, gallery.settings.preprocessing)
    return replace(
        shown,
        close_up=close_up,
        worst_close=worst_close,
        heatmap=heatmap(image, detection.pixels.score_map, geometry, limits, inside=detection.pixels.inside),
        worst=_resized(evidence.pixel, size, image.size),
        match=thumbnail,
        match_id=evidence.neighbour,
        matched=((x - left) * thumbnail.width / (right - left), (y - top) * thumbnail.height / (bottom - top)),
    )


def _close_up(
    picture: Image.Image, worst: tuple[float, float], how: Preprocessing
) -> tuple[Image.Image | None, tuple[float, float] | None]:
    """Return the part around a pixel (x, y) of a picture that is larger than a tile, and where the pixel is in it."""
    if how.tile is None:
        return None, None
    size = [min(edge, of) for edge, of in zip(tile_size(how), picture.size, strict=True)]
    if size == [*picture.size]:
        return None, None
    left, top = (
        round(min(max(place - edge / 2, 0), of - edge))
        for place, edge, of in zip(worst, size, picture.size, strict=True)
    )
    part = picture.crop((left, top, left + size[0], top + size[1]))
    shown = _at_most(part, KEPT_EDGE)
    return shown, _resized((worst[0] - left, worst[1] - top), part.size, shown.size)


def _at_most(picture: Image.Image, edge: int) -> Image.Image:
    """Return a picture, or a smaller copy of one whose longer edge has more pixels than this."""
    scale = edge / max(picture.size)
    if scale >= 1:
        return picture
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))


def _resized(place: tuple[float, float], size: tuple[int, int], to: tuple[int, int]) -> tuple[float, float]:
    """Return where the centre of a pixel (x, y) of a picture of this (width, height) is in a resized copy of it."""
    return (place[0] + 0.5) * to[0] / size[0] - 0.5, (place[1] + 0.5) * to[1] / size[1] - 0.5


def _alikes(gallery: Gallery, regions: Sequence[Region]) -> list[Alike]:
    found = []
    for region in regions[:TOLD]:
        if region.known is not None:
            x, y, width, height = region.box
            picture = gallery.catalog.defect_picture(region.known.defect)
            found.append(Alike((int(x + width / 2), int(y + height / 2)), likeness_of(vars(region.known)), picture))
    return found


def columns_of(examples: Iterable[Example]) -> list[str]:
    """Return those of COLUMNS that examples have: all but CLOSE_UP, unless one has that."""
    close = any(example.close_up is not None for example in examples)
    return [column for column in COLUMNS if close or column != CLOSE_UP]


def pictures_of(example: Example, edge: int) -> dict[str, Image.Image | None]:
    """Return the pictures by COLUMNS, RGB with the places marked, at most `edge` pixels; None for a missing one."""

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

    heat = fitted(example.heatmap)
    if heat is not None and example.geometry is not None:  # lines that were drawn before would be resized, too
        heat = outline(heat, example.regions, example.geometry)
    return {
        IMAGE: fitted(example.image, example.worst),
        HEAT_MAP: heat,
        CLOSE_UP: fitted(example.close_up, example.worst_close),
        TRUTH: fitted(example.mask),
        MATCH: fitted(example.match, example.matched),
    }


def mark(image: Image.Image, xy: tuple[float, float], size: float) -> Image.Image:
    """Return a copy of an image with a box around the pixel `xy`; `size` is the edge of the box in pixels.

    The box is white with a black outline, visible on any image. A box that would leave the image is moved inside.
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
