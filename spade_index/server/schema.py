"""What the native API says, as its OpenAPI page describes it."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field

from spade_index.settings import ImageScore

Pair = Annotated[
    list[int], Field(min_length=2, max_length=2)
]  # a tuple would be described as OpenAPI 3.1 does not allow
Place = Pair  # (x, y) in the original's pixels


class Limits(BaseModel):
    """What a request may take."""

    body_bytes: int
    add_bytes: int
    image_pixels: int
    images: int
    add_images: int
    queue_images: int
    seconds: float


class ServiceInfo(BaseModel):
    """What this service is."""

    service: str
    version: str
    galleries: int
    limits: Limits


class GallerySummary(BaseModel):
    """A gallery in the list of all; `error` says why one cannot be used."""

    name: str
    images: int | None
    snapshot: int | None
    backbone: str | None
    calibrated: bool
    open: bool
    error: str | None


class GalleryList(BaseModel):
    """All galleries."""

    galleries: list[GallerySummary]


class GalleryInfo(BaseModel):
    """One gallery."""

    name: str
    images: int
    snapshot: int
    snapshots: list[dict[str, Any]]
    created: str | None
    backbone: str
    input_size: Pair
    settings: dict[str, Any]
    search: dict[str, Any]
    thresholds: dict[ImageScore, float]
    index: dict[str, Any] | None
    removed_images: int
    shard_bytes: int
    open: bool
    may_write: bool


class GalleryImage(BaseModel):
    """One of a gallery's images; `path` is where it was when it was added."""

    id: str
    key: int
    width: int
    height: int
    added: int
    path: str


class GalleryImages(BaseModel):
    """A page of a gallery's images; `next` is `after` of the next page."""

    images: list[GalleryImage]
    next: int | None


class NeighbourInfo(BaseModel):
    """A normal image that is near."""

    id: str
    distance: float


class Evidence(BaseModel):
    """A place of the image, and the normal place that is most like it."""

    pixel: Place
    neighbour: str
    neighbour_pixel: Place
    distance: float


class MatchInfo(Evidence):
    """The same, with what showing it takes."""

    neighbour_size: Pair
    score: float
    thumbnail: str


class ScoreMap(BaseModel):
    """Where a score map can be had, for `expires` seconds at most."""

    id: str
    max: float
    limits: Annotated[list[float], Field(min_length=2, max_length=2)]
    overlay: str
    heat: str
    grey: str
    npy: str
    match: str
    expires: float


class ResultInfo(BaseModel):
    """What was found for one image."""

    image: str | None
    width: int
    height: int
    score: float
    kind: ImageScore
    scores: dict[ImageScore, float]
    threshold: float | None
    anomalous: bool | None
    snapshot: int
    neighbours: list[NeighbourInfo]
    evidence: Evidence | None
    score_map: ScoreMap | None


class QueryAnswer(BaseModel):
    """Results in the order of the images."""

    gallery: str
    snapshot: int
    results: list[ResultInfo]


def _utf8(text: str) -> str:
    if not text.isascii():
        text.encode()  # JSON can say half of a surrogate pair, which nothing else can; a ValueError
    return text


class Ids(BaseModel):
    """Ids of images."""

    ids: Annotated[list[Annotated[str, AfterValidator(_utf8)]], Field(min_length=1)]


class Changed(BaseModel):
    """A gallery after images were removed or restored."""

    changed: int
    images: int
    snapshot: int


class JobInfo(BaseModel):
    """A job; `images` of it have come, and `done` of them were looked at."""

    id: str
    gallery: str
    action: Literal["add"]
    replace: bool
    prefix: str
    state: Literal["receiving", "queued", "running", "done", "failed", "cancelled", "interrupted"]
    images: int
    done: int
    report: dict[str, int] | None
    notices: list[str]
    snapshot: int | None
    error: str | None
    created: str
    started: str | None
    ended: str | None


class JobList(BaseModel):
    """All jobs, the newest first."""

    jobs: list[JobInfo]


def binary(*media_types: str) -> dict[int | str, dict[str, Any]]:
    """The successful answer of a route that gives files."""
    content = {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in media_types}
    return {200: {"description": "The file", "content": content}}


def image_body(field: str, *, many: bool = True, raw: bool = True) -> dict[str, Any]:
    """A request body of images: files of a form, or, if `raw`, one image alone."""
    file = {"type": "string", "format": "binary"}
    files = {"type": "array", "items": file, "minItems": 1} if many else file
    form = {"type": "object", "properties": {field: files}, "required": [field], "additionalProperties": False}
    content: dict[str, Any] = {"multipart/form-data": {"schema": form}}
    if raw:
        content |= {kind: {"schema": file} for kind in ("image/jpeg", "image/png", "application/octet-stream")}
    return {"requestBody": {"required": True, "content": content}}
