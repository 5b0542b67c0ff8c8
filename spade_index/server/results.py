"""Recent results, kept for a while so that their score maps and evidence can be asked for."""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spade_index import wire
from spade_index.images.find import ImageFile
from spade_index.images.geometry import Geometry
from spade_index.images.plain import picture_of
from spade_index.images.tiles import box_of
from spade_index.images.workers import Held
from spade_index.method.detection import PixelDetection
from spade_index.method.evidence import locate
from spade_index.method.pictures import Picture
from spade_index.method.regions import Region, regions_of
from spade_index.settings import Preprocessing
from spade_index.views.heatmap import heat, heatmap, score_limits
from spade_index.wire_feedback import KnownDefectInfo

from .asks import Answer
from .decoding import Upload
from .forms import MASKS
from .limits import OVERLAY_EDGE
from .problems import Problem

ALL_SEARCHED = f"all of it is searched: it has no mask, unlike the images of the gallery: send one in `{MASKS}`"


@dataclass(frozen=True)
class Result:
    """The answer for one image, with all that drawing and explaining it needs."""

    gallery: str
    upload: Upload
    geometry: Geometry
    answer: Answer
    limits: tuple[float, float]
    preprocessing: Preprocessing
    notice: str | None = None  # about the image
    made: float = field(default_factory=time.monotonic)

    @property
    def pixels(self) -> PixelDetection:
        """Return the result of the pixel search."""
        assert self.answer.detection.pixels is not None
        return self.answer.detection.pixels

    @property
    def bytes(self) -> int:
        """Return the memory that it takes, approximately."""
        mask = 0 if self.geometry.region is None else self.geometry.region.mask.nbytes
        return len(self.upload.data) + self.pixels.nbytes + mask

    def overlay(self, opacity: float) -> Image.Image:
        """Draw the score map over the image."""
        return heatmap(self._image(), self.pixels.score_map, self.geometry, self.limits, opacity, self.pixels.inside)

    def heat(self) -> Image.Image:
        """Draw the score map alone, RGBA of the overlay's size."""
        return heat(
            drawn_size(self.geometry), self.pixels.score_map, self.geometry, self.limits, inside=self.pixels.inside
        )

    def grey(self) -> Image.Image:
        """Draw the score map in 8 bits, from the lower limit to the upper."""
        low, high = self.limits
        scaled = (self.pixels.score_map - low) / (high - low if high > low else 1)
        return Image.fromarray(np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8))

    def match(self, x: int, y: int) -> wire.MatchInfo:
        """Return what a pixel of the original was matched with. Raises Problem (422)."""
        across, down = self.geometry.to_input(x, y)
        if not (0 <= across < 1 and 0 <= down < 1):
            raise Problem(422, f"({x}, {y}) is not a pixel that the backbone saw", field="x")
        if not self.pixels.is_inside(across, down):
            raise Problem(422, f"({x}, {y}) is outside of the region of interest", field="x")
        score_map: NDArray[np.float32] = self.pixels.score_map
        row, column = int(down * score_map.shape[0]), int(across * score_map.shape[1])
        match = self.pixels.match(across, down)
        width, height = self.answer.originals[match.neighbour.id]
        snapshot = self.answer.detection.snapshot
        found = locate(match, self.geometry, (width, height), self.preprocessing)
        left, top, right, bottom = box_of(match.neighbour.id, width, height, self.preprocessing)
        return wire.MatchInfo(
            pixel=(x, y),
            neighbour=found.neighbour,
            neighbour_pixel=found.neighbour_pixel,
            distance=found.distance,
            neighbour_size=(width, height),
            neighbour_box=(left, top, right - left, bottom - top),
            score=float(score_map[row, column]),
            thumbnail=thumbnail_link(self.gallery, match.neighbour.id, snapshot),
        )

    def _image(self) -> Image.Image:
        return drawn(self.upload, self.preprocessing, drawn_size(self.geometry))


class Results:
    """Keeps results by unguessable ids; drops the oldest when they take too much memory or are too old."""

    def __init__(self, most_bytes: int, seconds: float) -> None:
        self.seconds = seconds
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, Result] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def keep(self, result: Result) -> str:
        """Keep a result; return its id."""
        id = secrets.token_urlsafe(12)
        with self._lock:
            self._kept[id] = result
            self._bytes += result.bytes
            now = time.monotonic()
            while self._kept:
                oldest = next(iter(self._kept.values()))
                if self._bytes <= self._most_bytes and now - oldest.made <= self.seconds:
                    break
                self._bytes -= self._kept.popitem(last=False)[1].bytes
        return id

    def get(self, id: str) -> Result:
        """Return a result. Raises Problem (404) once it was dropped."""
        result = self._kept.get(id)
        if result is None or time.monotonic() - result.made > self.seconds:
            raise Problem(404, "no such result (any more): send the image again", field="id")
        return result

    def stats(self) -> dict[str, int]:
        """Return the number of results and their memory."""
        return {"results": len(self._kept), "bytes": self._bytes}


def described(
    gallery: str,
    uploads: Sequence[Upload],
    images: Sequence[Picture],
    answers: Sequence[Answer],
    how: Preprocessing,
    results: Results,
) -> tuple[wire.ResultInfo, ...]:
    """Return the results of images, and keep those with a score map. Finds regions, which takes milliseconds each."""

    def one(upload: Upload, image: Picture, answer: Answer) -> wire.ResultInfo:
        if answer.detection.pixels is None:
            return _without_map(upload, image, answer)
        result = result_of(gallery, upload, image, answer, how)
        return described_kept(results.keep(result), result, results.seconds)

    return tuple(map(one, uploads, images, answers))


def verdicts(
    gallery: str, uploads: Sequence[Upload], images: Sequence[Picture], answers: Sequence[Answer], how: Preprocessing
) -> tuple[wire.ResultInfo, ...]:
    """Return the results of images, without their score maps, none of which is kept."""

    def one(upload: Upload, image: Picture, answer: Answer) -> wire.ResultInfo:
        if answer.detection.pixels is None:
            return _without_map(upload, image, answer)
        return _with_evidence(result_of(gallery, upload, image, answer, how), None)

    return tuple(map(one, uploads, images, answers))


def described_kept(id: str, result: Result, seconds: float) -> wire.ResultInfo:
    """Describe a result that is kept for a number of seconds."""
    at = f"/v1/results/{id}"
    score_map = wire.ScoreMap(
        id=id,
        max=result.pixels.peak,
        limits=result.limits,
        overlay=f"{at}/overlay.png",
        heat=f"{at}/heat.png",
        grey=f"{at}/grey.png",
        npy=f"{at}/score_map.npy",
        match=f"{at}/match",
        expires=seconds,
    )
    return _with_evidence(result, score_map)


def _without_map(upload: Upload, image: Picture, answer: Answer) -> wire.ResultInfo:
    return _described(upload, image.geometry, answer, None, None, None, _notice(image, answer))


def _with_evidence(result: Result, score_map: wire.ScoreMap | None) -> wire.ResultInfo:
    worst = result.pixels.worst()
    evidence = locate(worst, result.geometry, result.answer.originals[worst.neighbour.id], result.preprocessing)
    shown = wire.Evidence(**vars(evidence))
    found = regions_of(result.answer.detection, result.geometry)
    regions = None if found is None else tuple(_region(result.gallery, region) for region in found)
    return _described(result.upload, result.geometry, result.answer, shown, regions, score_map, result.notice)


def _described(
    upload: Upload,
    geometry: Geometry,
    answer: Answer,
    evidence: wire.Evidence | None,
    regions: tuple[wire.RegionInfo, ...] | None,
    score_map: wire.ScoreMap | None,
    notice: str | None,
) -> wire.ResultInfo:
    detection = answer.detection
    return wire.ResultInfo(
        image=upload.name,
        width=geometry.width,
        height=geometry.height,
        score=detection.score,
        kind=detection.kind,
        scores=detection.scores,
        threshold=detection.threshold,
        anomalous=detection.anomalous,
        snapshot=detection.snapshot,
        neighbours=tuple(wire.NeighbourInfo(n.id, n.distance) for n in detection.neighbours),
        p_value=detection.p_value,
        evidence=evidence,
        regions=regions,
        score_map=score_map,
        notice=notice,
    )


def _region(gallery: str, region: Region) -> wire.RegionInfo:
    known = None
    if region.known is not None:
        picture = f"/v1/galleries/{quote(gallery, safe='')}/defects/{region.known.defect}/picture"
        known = KnownDefectInfo(**vars(region.known), picture=picture)
    return wire.RegionInfo(region.polygon, region.box, region.area, region.score, known)


def result_of(gallery: str, upload: Upload, image: Picture, answer: Answer, how: Preprocessing) -> Result:
    """Return a result to keep. Without a calibrated threshold, colours show only where the map's own maximum is."""
    assert answer.detection.pixels is not None
    limits = score_limits([answer.detection.pixels.peak], answer.detection.pixel_threshold)
    return Result(gallery, upload, image.geometry, answer, limits, how, _notice(image, answer))


def _notice(image: Picture, answer: Answer) -> str | None:
    """Return what is to be known about an image: no mask comes with it, where those of the gallery have one each."""
    by_rule = answer.joining.limited and answer.joining.interest is None
    return image.notice or (ALL_SEARCHED if by_rule and image.geometry.region is None else None)


def thumbnail_link(gallery: str, id: str, snapshot: int) -> str:
    """Return the path of an image's thumbnail."""
    return f"/v1/galleries/{quote(gallery, safe='')}/thumbnail?id={quote(id, safe='')}&snapshot={snapshot}"


def drawn(upload: Upload, how: Preprocessing, size: tuple[int, int]) -> Image.Image:
    """Return an image as it was sent, of this width and height. Raises ImageError."""
    if upload.pixels is not None:
        return Image.fromarray(upload.pixels).resize(size, Image.Resampling.BICUBIC)
    file = ImageFile("the image", "the image", len(upload.data), 0, Held(upload.data))
    return picture_of(file, how, size)


def drawn_size(geometry: Geometry, most: int = OVERLAY_EDGE) -> tuple[int, int]:
    """Return width and height of a picture that is drawn, whose longer edge is `most` pixels or fewer."""
    scale = min(1.0, most / max(geometry.width, geometry.height))
    return max(1, round(geometry.width * scale)), max(1, round(geometry.height * scale))
