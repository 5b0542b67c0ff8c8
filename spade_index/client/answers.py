"""What a service answers, as the Python client hands it over: the fields of its OpenAPI document, frozen."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spade_index.errors import InputError

if TYPE_CHECKING:
    from .client import Client

T = TypeVar("T")
Place = tuple[int, int]  # (x, y) in an original's pixels

PAIRS = ("pixel", "neighbour_pixel", "neighbour_size", "limits", "input_size")  # lists in JSON


@dataclass(frozen=True)
class ServiceInfo:
    """A service, and what it takes in one request."""

    version: str
    galleries: int
    limits: dict[str, float]


@dataclass(frozen=True)
class GallerySummary:
    """A gallery in the list of all; `error` says why one cannot be used."""

    name: str
    images: int | None
    snapshot: int | None
    backbone: str | None
    calibrated: bool
    open: bool
    error: str | None


@dataclass(frozen=True)
class GalleryInfo:
    """One gallery: what it was built with, its snapshots, thresholds and index."""

    name: str
    images: int
    snapshot: int
    snapshots: list[dict[str, Any]]
    created: str | None
    backbone: str
    input_size: tuple[int, int]
    settings: dict[str, Any]
    search: dict[str, Any]
    thresholds: dict[str, float]
    index: dict[str, Any] | None
    removed_images: int
    shard_bytes: int
    open: bool
    may_write: bool


@dataclass(frozen=True)
class GalleryImage:
    """One of a gallery's images."""

    id: str
    key: int
    width: int
    height: int
    added: int  # the snapshot that it came with
    path: str


@dataclass(frozen=True)
class Change:
    """A gallery after images were removed or restored."""

    changed: int
    images: int
    snapshot: int


@dataclass(frozen=True)
class Job:
    """Images that are being added: `images` have come, and `done` of them were looked at."""

    id: str
    gallery: str
    state: str  # receiving, queued, running; done, failed, cancelled, interrupted
    images: int
    done: int
    report: dict[str, int] | None
    notices: list[str]
    snapshot: int | None
    error: str | None
    created: str
    started: str | None
    ended: str | None

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to it (an interrupted one can be resumed)."""
        return self.state not in ("receiving", "queued", "running")


@dataclass(frozen=True)
class Neighbour:
    """A normal image that is near."""

    id: str
    distance: float


@dataclass(frozen=True)
class Evidence:
    """A place of the image, and the normal place that is most like it."""

    pixel: Place
    neighbour: str
    neighbour_pixel: Place
    distance: float


@dataclass(frozen=True)
class Match(Evidence):
    """The same for any place, with the value of the score map there."""

    neighbour_size: tuple[int, int]
    score: float


@dataclass(frozen=True)
class ScoreMap:
    """Where a score map is kept, for `expires` seconds at most."""

    id: str
    max: float
    limits: tuple[float, float]  # of the overlay's colours
    expires: float


@dataclass(frozen=True)
class Result:
    """What was found for one image. Pictures and matches are fetched when they are asked for, while they are kept."""

    gallery: str
    image: str | None
    width: int
    height: int
    score: float
    kind: str
    scores: dict[str, float]
    threshold: float | None
    anomalous: bool | None
    snapshot: int
    neighbours: tuple[Neighbour, ...]
    evidence: Evidence | None
    kept: ScoreMap | None
    _client: "Client" = field(repr=False, compare=False)

    def score_map(self) -> NDArray[np.float32]:
        """How far each pixel is from normal, float32 [H, W] of the backbone's input size."""
        return self._client.score_map(self._id())

    def overlay(self, opacity: float = 0.5) -> Image.Image:
        """The score map over the image, in its own coordinates."""
        return self._client.picture(self._id(), "overlay", opacity)

    def heat(self) -> Image.Image:
        """The overlay's colours alone, transparent where the image is normal."""
        return self._client.picture(self._id(), "heat")

    def grey(self) -> Image.Image:
        """The score map in 8 bits over its limits."""
        return self._client.picture(self._id(), "grey")

    def match(self, x: int, y: int) -> Match:
        """The normal image and place that a pixel of the image was matched with."""
        return self._client.match(self._id(), x, y)

    def thumbnail(self, id: str | None = None) -> Image.Image:
        """A small picture of a neighbour: by its id, or the one that the worst place was matched with."""
        if id is None:
            id = self.evidence.neighbour if self.evidence else self.neighbours[0].id
        return self._client.thumbnail(self.gallery, id, self.snapshot)

    def _id(self) -> str:
        if self.kept is None:
            raise InputError(f"{self.image or 'this image'} has no score map: query with maps='always'")
        return self.kept.id


def made(kind: type[T], values: Mapping[str, Any], **others: Any) -> T:
    """A dataclass of an answer's fields; those that a newer service adds are left out."""
    found = {}
    for name in (one.name for one in fields(kind) if one.name in values):  # type: ignore[arg-type]
        value = values[name]
        found[name] = tuple(value) if name in PAIRS and isinstance(value, list) else value
    return kind(**found | others)


def result_of(client: "Client", gallery: str, image: str | None, values: Mapping[str, Any]) -> Result:
    """One of a query's results."""
    evidence, score_map = values["evidence"], values["score_map"]
    return made(
        Result,
        values,
        gallery=gallery,
        image=image,
        neighbours=tuple(made(Neighbour, one) for one in values["neighbours"]),
        evidence=made(Evidence, evidence) if evidence else None,
        kept=made(ScoreMap, score_map) if score_map else None,
        _client=client,
    )
