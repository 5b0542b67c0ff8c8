"""The native API: galleries, queries, score maps and evidence."""

import io
from dataclasses import asdict
from importlib.metadata import version
from typing import Annotated, Any, Literal

import anyio
import numpy as np
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from PIL import Image

from spade_index import wire
from spade_index.errors import SpadeIndexError
from spade_index.method.normal_scores import stored_calibration
from spade_index.method.tuned import tuned_search
from spade_index.settings import Maps
from spade_index.views.files import mark

from . import results
from .access import ReadRoute, RequestKey, permitted
from .decoding import read_uploads
from .forms import FIELD
from .keys import Key
from .limits import NAME_LENGTH, PAGE_IMAGES, PAGE_SNAPSHOTS
from .problems import MEDIA_TYPE, Problem, as_problem
from .results import Result
from .schema import binary, image_body
from .service import Service, service_of

PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "What is wrong with the request (RFC 9457)", "content": {MEDIA_TYPE: {}}},
    "5XX": {"description": "What is wrong with the service (RFC 9457)", "content": {MEDIA_TYPE: {}}},
}
NPY = "application/x-npy"
MAX_EDGE = 1 << 30  # pixels

GalleryName = Annotated[str, Path(description="A gallery, as GET /v1/galleries names it")]
Snapshot = Annotated[int | None, Query(ge=0, le=2**62, description="As of this snapshot [the latest]")]
ResultId = Annotated[str, Path(description="Of a result's `score_map`")]
Opacity = Annotated[float, Query(ge=0, le=1, description="Of the overlay half-way between the limits")]

router = APIRouter(prefix="/v1", responses=PROBLEMS, route_class=ReadRoute)


def result_of(request: Request, id: ResultId) -> Result:
    """Return a kept result, if the key may read its gallery. Raises Problem (403, 404)."""
    found = service_of(request).results.get(id)
    permitted(request, found.gallery, write=False)
    return found


KeptResult = Annotated[Result, Depends(result_of)]


@router.get("", tags=["service"])
async def service(request: Request, key: RequestKey) -> wire.ServiceInfo:
    """Return the version and limits of the service, and how many galleries the key may read."""
    served = service_of(request)
    settings = served.settings
    names = await anyio.to_thread.run_sync(served.galleries.names)
    return wire.ServiceInfo(
        service="spade_index",
        version=version("spade_index"),
        galleries=sum(key.allows(name, write=False) for name in names),
        limits=wire.Limits(
            body_bytes=settings.body_bytes,
            add_bytes=settings.add_bytes,
            image_pixels=settings.image_pixels,
            images=settings.request_images,
            add_images=settings.add_images,
            queue_images=settings.queue_images,
            seconds=settings.request_seconds,
        ),
    )


@router.get("/galleries", tags=["galleries"])
def galleries(request: Request, key: RequestKey) -> wire.GalleryList:
    """List all galleries that the key may read."""
    served = service_of(request)
    names = [name for name in served.galleries.names() if key.allows(name, write=False)]
    return wire.GalleryList(tuple(_summary(served, name) for name in names))


@router.get("/galleries/{gallery}", tags=["galleries"])
def gallery(request: Request, gallery: GalleryName, key: RequestKey) -> wire.GalleryInfo:
    """Describe a gallery: its settings, snapshots, thresholds and index."""
    return described(service_of(request), gallery, key)


@router.get("/galleries/{gallery}/images", tags=["images"])
def images(
    request: Request,
    gallery: GalleryName,
    after: Annotated[int, Query(ge=-1, le=2**62, description="`next` of the page before")] = -1,
    limit: Annotated[int, Query(ge=1, le=PAGE_IMAGES)] = 100,
    removed: Annotated[bool, Query(description="Those that can be restored instead")] = False,
) -> wire.GalleryImages:
    """List the images of a gallery, page by page, in the order in which they were added."""
    with service_of(request).galleries.open(gallery) as opened:
        if removed:
            rows = [row for row in opened.removed_images() if row.key > after][: limit + 1]
        else:
            rows = opened.catalog.page(opened.snapshot, after, limit + 1)
    listed = tuple(
        wire.GalleryImage(row.id, row.key, row.width, row.height, row.added, row.path.rpartition("/")[2])
        for row in rows[:limit]
    )
    return wire.GalleryImages(images=listed, next=rows[limit - 1].key if len(rows) > limit else None)


@router.get("/galleries/{gallery}/thumbnail", response_class=Response, responses=binary("image/jpeg"), tags=["images"])
def thumbnail(
    request: Request,
    gallery: GalleryName,
    id: Annotated[str, Query(description="Of an image")],
    snapshot: Snapshot = None,
) -> Response:
    """Return a small JPEG of one of the gallery's images."""
    with service_of(request).galleries.open(gallery, snapshot) as opened:
        jpeg = opened.thumbnail(opened.image(id))
    return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400"})


@router.post(
    "/galleries/{gallery}/query",
    openapi_extra=image_body(FIELD, many=True),
    tags=["query"],
)
async def query(
    request: Request,
    gallery: GalleryName,
    maps: Annotated[
        Maps | None,
        Query(
            description="Score maps of all images, of those whose pooled score is above its threshold, or of none "
            "[auto where the gallery has such a threshold, else always]"
        ),
    ] = None,
    threshold: Annotated[
        float | None, Query(allow_inf_nan=False, description="Call images anomalous above this score [the calibrated]")
    ] = None,
    snapshot: Snapshot = None,
    name: Annotated[str | None, Query(max_length=NAME_LENGTH, description="Of an image that is the whole body")] = None,
) -> wire.QueryAnswer:
    """Score images: one as the body, or some in the form field `images`."""
    served = service_of(request)
    served.galleries.path(gallery)
    with served.engine.place() as place:
        uploads = await read_uploads(request, served.settings.request_images)
        place.take(len(uploads))
        found = await served.find(request, gallery, uploads, snapshot=snapshot, maps=maps, threshold=threshold)
        answered = (found.images, found.answers, found.preprocessing, served.results)
        described = await anyio.to_thread.run_sync(results.described, gallery, uploads, *answered)
    return wire.QueryAnswer(gallery=gallery, snapshot=described[0].snapshot, results=described)


@router.post(
    "/galleries/{gallery}/score-map",
    response_class=Response,
    responses=binary("image/png", NPY),
    openapi_extra=image_body(FIELD, many=False),
    tags=["query"],
)
async def score_map(
    request: Request,
    gallery: GalleryName,
    format: Annotated[
        Literal["overlay", "heat", "grey", "npy"],
        Query(description="Over the image; its colours alone; 8-bit grey; or float32 values as NumPy keeps them"),
    ] = "overlay",
    opacity: Opacity = 0.5,
    snapshot: Snapshot = None,
    name: Annotated[str | None, Query(max_length=NAME_LENGTH)] = None,
) -> Response:
    """Return the score map of one image. Its score is in the headers."""
    served = service_of(request)
    served.galleries.path(gallery)
    with served.engine.place() as place:
        uploads = await read_uploads(request, 1)
        place.take(1)
        found = await served.find(request, gallery, uploads, snapshot=snapshot, maps="always")
        result = results.result_of(gallery, uploads[0], found.images[0], found.answers[0], found.preprocessing)
        response = await _rendered(served, result, format, opacity)
    detection = result.answer.detection
    response.headers["X-Score"] = repr(detection.score)
    response.headers["X-Snapshot"] = str(detection.snapshot)
    if detection.anomalous is not None:
        response.headers["X-Anomalous"] = str(detection.anomalous).lower()
    return response


@router.get("/results/{id}", tags=["results"])
def result(request: Request, id: ResultId, found: KeptResult) -> wire.ResultInfo:
    """Return the result of a query again."""
    return results.described_kept(id, found, service_of(request).results.seconds)


@router.get("/results/{id}/overlay.png", response_class=Response, responses=binary("image/png"), tags=["results"])
async def overlay(request: Request, found: KeptResult, opacity: Opacity = 0.5) -> Response:
    """Return the score map over the image, in its own coordinates."""
    return await _rendered(service_of(request), found, "overlay", opacity)


@router.get("/results/{id}/heat.png", response_class=Response, responses=binary("image/png"), tags=["results"])
async def heat(request: Request, found: KeptResult) -> Response:
    """Return the overlay's colours alone, transparent where the image is normal, to be laid over the image."""
    return await _rendered(service_of(request), found, "heat", 0.5)


@router.get("/results/{id}/grey.png", response_class=Response, responses=binary("image/png"), tags=["results"])
async def grey(request: Request, found: KeptResult) -> Response:
    """Return the score map as 8-bit grey over the result's `limits`, of the backbone's input size."""
    return await _rendered(service_of(request), found, "grey", 0.5)


@router.get("/results/{id}/score_map.npy", response_class=Response, responses=binary(NPY), tags=["results"])
async def npy(request: Request, found: KeptResult) -> Response:
    """Return the score map, float32 [H, W] of the backbone's input size, as NumPy stores it."""
    return await _rendered(service_of(request), found, "npy", 0.5)


@router.get("/results/{id}/match", tags=["results"])
def match(
    found: KeptResult,
    x: Annotated[int, Query(ge=0, le=MAX_EDGE, description="Column of the original, from 0")],
    y: Annotated[int, Query(ge=0, le=MAX_EDGE, description="Row of the original, from 0")],
) -> wire.MatchInfo:
    """Return the normal image and place that a pixel of the image was matched with."""
    return found.match(x, y)


async def _rendered(served: Service, result: Result, format: str, opacity: float) -> Response:
    async with served.drawing:  # those that wait occupy no thread
        return await anyio.to_thread.run_sync(_drawn, served, result, format, opacity)


def _drawn(served: Service, result: Result, format: str, opacity: float) -> Response:
    with served.metrics.timed("render"):
        if format == "npy":
            buffer = io.BytesIO()
            np.save(buffer, result.pixels.score_map, allow_pickle=False)
            return Response(buffer.getvalue(), media_type=NPY)
        if format == "overlay":
            return _png(result.overlay(opacity))
        return _png(result.heat() if format == "heat" else result.grey())


def _png(image: Image.Image) -> Response:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1, **mark("PNG"))  # a few percent larger, in a fifth of the time
    return Response(buffer.getvalue(), media_type="image/png")


def _summary(served: Service, name: str) -> wire.GallerySummary:
    images = snapshot = backbone = error = None
    calibrated = False
    try:
        with served.galleries.open(name) as opened:
            images, snapshot, backbone = len(opened), opened.snapshot, opened.settings.backbone
            key = served.settings.search.settings(tuned_search(opened)).calibration_key()
            calibrated = opened.catalog.calibration(key) is not None
    except (SpadeIndexError, Problem) as failure:
        error = str(as_problem(failure, str(served.galleries.root)).detail)
    return wire.GallerySummary(
        name=name,
        images=images,
        snapshot=snapshot,
        backbone=backbone,
        calibrated=calibrated,
        open=served.galleries.is_open(name),
        error=error,
    )


def described(served: Service, name: str, key: Key) -> wire.GalleryInfo:
    """Describe a gallery. Raises Problem (404), GalleryError."""
    with served.galleries.open(name) as opened:
        info, settings = opened.info(), opened.settings
        info["snapshots"] = info["snapshots"][-PAGE_SNAPSHOTS:]
        search = served.settings.search.settings(tuned_search(opened))
        stored = stored_calibration(opened, search)
    kept = ("images", "snapshot", "snapshots", "created", "removed_images", "shard_bytes", "settings", "index")
    return wire.GalleryInfo(
        name=name,
        backbone=settings.backbone,
        input_size=settings.preprocessing.input_size,
        search={field: value for field, value in asdict(search).items() if field != "maps"},
        thresholds={} if stored is None else stored.thresholds,
        tuned=info["tuned"],
        false_alarms=None if stored is None else stored.false_alarms,
        open=served.galleries.is_open(name),
        may_write=key.allows(name, write=True),
        **{field: info[field] for field in kept},
    )
