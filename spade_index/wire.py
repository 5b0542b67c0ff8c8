"""The answers of the HTTP API: each is stated here once, for the service, its OpenAPI document, and the Python client.

Pydantic's dataclasses: they are checked, frozen, and described as JSON schemas. Fields that a newer service adds are
ignored.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, field
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from .settings import ImageScore
from .wire_feedback import KnownDefectInfo, PreviewInfo, Said

# Arrays of two in JSON. A fixed tuple would be described by `prefixItems`, which tools for OpenAPI do not know.
Place = Annotated[tuple[int, ...], Field(min_length=2, max_length=2)]  # (x, y), pixels of the original
Size = Annotated[tuple[int, ...], Field(min_length=2, max_length=2)]  # pixels
Point = Annotated[tuple[float, ...], Field(min_length=2, max_length=2)]  # (x, y), pixels of the original
Box = Annotated[tuple[float, ...], Field(min_length=4, max_length=4)]  # x, y, width, height, pixels of the original
Range = Annotated[tuple[float, ...], Field(min_length=2, max_length=2)]  # lower and upper

JobState = Literal["receiving", "queued", "running", "done", "failed", "cancelled", "interrupted"]


@dataclass(frozen=True, eq=False)  # compared as mappings are, also with a dict
class Limits(Mapping[str, float]):
    """The limits of a request, as fields and by their names."""

    body_bytes: int
    add_bytes: int
    image_pixels: int
    images: int
    add_images: int
    queue_images: int
    seconds: float

    def __getitem__(self, name: str) -> float:
        """Return a limit by its name. Raises KeyError."""
        return asdict(self)[name]

    def __iter__(self) -> Iterator[str]:
        """Yield the names of all limits."""
        return iter(asdict(self))

    def __len__(self) -> int:
        """Return the number of limits."""
        return len(asdict(self))


@dataclass(frozen=True)
class ServiceInfo:
    """The service, its version and its limits."""

    service: str
    version: str
    galleries: int
    limits: Limits


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
    region_of_interest: bool = False  # whether only a part of every picture counts


@dataclass(frozen=True)
class GalleryList:
    """All galleries."""

    galleries: tuple[GallerySummary, ...]


@dataclass(frozen=True)
class GalleryInfo:
    """One gallery."""

    name: str
    images: int
    snapshot: int
    snapshots: list[dict[str, Any]]
    created: str | None
    backbone: str
    input_size: Size
    settings: dict[str, Any]
    search: dict[str, Any]
    thresholds: dict[ImageScore, float]
    index: dict[str, Any] | None
    removed_images: int
    shard_bytes: int
    open: bool
    may_write: bool
    tuned: dict[str, Any] | None = None
    false_alarms: float | None = None
    region_of_interest: dict[str, Any] | None = None  # the part of every picture that counts: source, area, digest


@dataclass(frozen=True)
class GalleryImage:
    """One of a gallery's images; `path` is the name of its file when it was added, without folders."""

    id: str
    key: int
    width: int
    height: int
    added: int
    path: str


@dataclass(frozen=True)
class GalleryImages:
    """A page of a gallery's images; `next` is `after` of the next page."""

    images: tuple[GalleryImage, ...]
    next: int | None


@dataclass(frozen=True)
class NeighbourInfo:
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
class RegionInfo:
    """A region that looks worse than normal images do; `score` is the score map's maximum inside."""

    polygon: tuple[Point, ...]
    box: Box
    area: float
    score: float
    known_defect: KnownDefectInfo | None = None  # that it is most like; None: the gallery knows none


@dataclass(frozen=True)
class MatchInfo(Evidence):
    """Evidence with the facts that are needed to show it; the thumbnail shows `neighbour_box` of the neighbour."""

    neighbour_size: Size
    neighbour_box: Box
    score: float
    thumbnail: str


@dataclass(frozen=True)
class ScoreMap:
    """Links to a score map, which is kept for at most `expires` seconds."""

    id: str
    max: float
    limits: Range
    overlay: str
    heat: str
    grey: str
    npy: str
    match: str
    expires: float


@dataclass(frozen=True)
class Verdict:
    """The result for one image."""

    image: str | None
    width: int
    height: int
    score: float
    kind: ImageScore
    scores: dict[ImageScore, float]
    threshold: float | None
    anomalous: bool | None
    snapshot: int
    neighbours: tuple[NeighbourInfo, ...]
    evidence: Evidence | None
    regions: tuple[RegionInfo, ...] | None = field(default=None, kw_only=True)  # the highest score first
    p_value: float | None = field(default=None, kw_only=True)  # share of good images that score as high
    notice: str | None = field(default=None, kw_only=True)  # what is odd about the image itself


@dataclass(frozen=True)
class ResultInfo(Verdict):
    """The result for one image, with links to its score map."""

    score_map: ScoreMap | None


@dataclass(frozen=True)
class QueryAnswer:
    """Results in the order of the images."""

    gallery: str
    snapshot: int
    results: tuple[ResultInfo, ...]


@dataclass(frozen=True)
class Changed:
    """A gallery after images were removed or restored."""

    changed: int
    images: int
    snapshot: int


@dataclass(frozen=True)
class OddImageInfo:
    """One of a gallery's images; `p_value` is the share of the ranked images that score as high."""

    id: str
    score: float
    p_value: float
    thumbnail: str
    heat: str


@dataclass(frozen=True)
class AuditInfo:
    """A gallery's odd images and groups of near-duplicates: `ranked` and `compared` of `images` were looked at."""

    gallery: str
    snapshot: int
    kind: ImageScore
    images: int
    ranked: int
    compared: int
    odd: tuple[OddImageInfo, ...]  # the highest score first
    near_duplicates: tuple[tuple[str, ...], ...]  # ids; the largest group first


@dataclass(frozen=True)
class JobInfo:
    """A job: it received `images` images, and has processed `done` of them."""

    id: str
    gallery: str
    action: Literal["add"]
    replace: bool
    prefix: str
    state: JobState
    images: int
    done: int
    report: dict[str, int] | None
    notices: list[str]
    snapshot: int | None
    error: str | None
    created: str
    started: str | None
    ended: str | None
    again: bool = False
    verdict: Said | None = None  # of feedback; the images are noted with it
    who: str = ""
    note: str = ""
    kind: str = ""  # of the defects, of `missed` and `defect`, unless boxes were given
    kinds: list[str] = field(default_factory=list)  # of the defect in each box
    feedback_ids: tuple[str, ...] = ()  # which undo it: those its images get and, when it is done, of what was added
    preview: bool = False  # the gallery stays as it is; what would change is told in `previewed`
    previewed: PreviewInfo | None = None


@dataclass(frozen=True)
class JobList:
    """All jobs, the newest first."""

    jobs: tuple[JobInfo, ...]
