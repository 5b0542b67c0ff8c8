"""The answers of a service as the Python client returns them: those of `wire`, and what can be done with them."""

from dataclasses import field, fields
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from spade_index.errors import InputError, ServiceError
from spade_index.wire import (
    AuditInfo,
    Changed,
    Evidence,
    GalleryImage,
    GalleryInfo,
    GallerySummary,
    JobInfo,
    MatchInfo,
    NeighbourInfo,
    RegionInfo,
    ResultInfo,
    ScoreMap,
    ServiceInfo,
    Verdict,
)
from spade_index.wire_feedback import DriftInfo, FeedbackInfo, JudgedInfo, KnownDefectInfo, PreviewInfo, VerdictChange

__all__ = [
    "AuditInfo",
    "Changed",
    "DriftInfo",
    "Evidence",
    "FeedbackInfo",
    "GalleryImage",
    "GalleryInfo",
    "GallerySummary",
    "Job",
    "Jobs",
    "JudgedInfo",
    "KnownDefectInfo",
    "MatchInfo",
    "NeighbourInfo",
    "PreviewInfo",
    "RegionInfo",
    "Result",
    "ScoreMap",
    "ServiceInfo",
    "VerdictChange",
    "checked",
    "result_of",
]

T = TypeVar("T")
KEPT = {field.name for field in fields(Verdict)}


@dataclass(frozen=True)
class Job(JobInfo):
    """A job that adds images: it received `images` images, and has processed `done` of them."""

    @property
    def over(self) -> bool:
        """True if the job has ended (an interrupted job can be resumed)."""
        return self.state not in ("receiving", "queued", "running")


@dataclass(frozen=True)
class Jobs:
    """All jobs, the newest first."""

    jobs: tuple[Job, ...]


class Pictures(Protocol):
    """The source of the pictures and matches of a result: a client."""

    def score_map(self, result_id: str) -> NDArray[np.float32]: ...

    def picture(self, result_id: str, kind: Any, opacity: float | None = None) -> Image.Image: ...

    def match(self, result_id: str, x: int, y: int) -> MatchInfo: ...

    def thumbnail(self, gallery: str, id: str, snapshot: int | None = None) -> Image.Image: ...


@dataclass(frozen=True, config=ConfigDict(arbitrary_types_allowed=True))
class Result(Verdict):
    """The result for one image. Pictures and matches are fetched on demand, while the service keeps them."""

    gallery: str
    kept: ScoreMap | None
    _client: Any = field(repr=False, compare=False)  # Pictures

    def score_map(self) -> NDArray[np.float32]:
        """Return how far each pixel is from normal, float32 [H, W] of the backbone's input size."""
        return self._pictures.score_map(self._id())

    def overlay(self, opacity: float = 0.5) -> Image.Image:
        """Return the score map over the image, in its own coordinates."""
        return self._pictures.picture(self._id(), "overlay", opacity)

    def heat(self) -> Image.Image:
        """Return the colours of the overlay alone, transparent where the image is normal."""
        return self._pictures.picture(self._id(), "heat")

    def grey(self) -> Image.Image:
        """Return the score map as 8-bit grey over its limits."""
        return self._pictures.picture(self._id(), "grey")

    def match(self, x: int, y: int) -> MatchInfo:
        """Return the normal image and place that a pixel of the image was matched with."""
        return self._pictures.match(self._id(), x, y)

    def thumbnail(self, id: str | None = None) -> Image.Image:
        """Return a small picture of a neighbour, by its id; by default, of the one matched with the worst place."""
        if id is None and not self.evidence and not self.neighbours:
            raise InputError(f"{self.image or 'this image'} has no neighbours")
        if id is None:
            id = self.evidence.neighbour if self.evidence else self.neighbours[0].id
        return self._pictures.thumbnail(self.gallery, id, self.snapshot)

    @property
    def _pictures(self) -> Pictures:
        client: Pictures = self._client
        return client

    def _id(self) -> str:
        if self.kept is None:
            raise InputError(f"{self.image or 'this image'} has no score map: query with maps='always'")
        return self.kept.id


def checked(kind: type[T], values: Any) -> T:
    """Return an answer as an instance of `kind`. Raises ServiceError if its fields do not fit."""
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise ServiceError(f"the answer is not one of spade_index ({error.error_count()} unexpected fields)") from error


def result_of(client: Pictures, gallery: str, image: str | None, told: ResultInfo) -> Result:
    """Return one of the results of a query."""
    own = {"gallery": gallery, "image": image, "kept": told.score_map, "_client": client}
    return Result(**{name: value for name, value in vars(told).items() if name in KEPT} | own)
