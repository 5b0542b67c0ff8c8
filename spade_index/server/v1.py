"""The native API: galleries, queries, score maps and evidence."""

from dataclasses import asdict
from importlib.metadata import version
from typing import Annotated, Literal

import anyio
from fastapi import APIRouter, Path, Query, Request, Response

from spade_index import wire
from spade_index.errors import SpadeIndexError
from spade_index.method.normal_scores import stored_calibration
from spade_index.method.tuned import tuned_search
from spade_index.settings import Maps

from . import results
from .access import ReadRoute, RequestKey
from .decoding import read_uploads
from .forms import FIELD
from .keys import Key
from .limits import NAME_LENGTH, PAGE_IMAGES, PAGE_SNAPSHOTS
from .problems import Problem, as_problem
from .schema import PROBLEMS, binary, image_body
from .service import Service, service_of
from .v1_results import NPY, Opacity, rendered

GalleryName = Annotated[str, Path(description="A gallery, as GET /v1/galleries names it")]
Snapshot = Annotated[int | None, Query(ge=0, le=2**62, description="As of this snapshot [the latest]")]

router = APIRouter(prefix="/v1", responses=PROBLEMS, route_class=ReadRoute)


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
    openapi_extra=image_body(FIELD, many=True, masks=True),
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
    """Score images: one as the body, or some in the form field `images`.

    Where the gallery has a region of interest, `masks` may hold one for each image, or one for all: a picture, of which
    what is not zero counts, or polygons in JSON.
    """
    served = service_of(request)
    served.galleries.require(gallery)
    with served.engine.place() as place:
        uploads = await read_uploads(request, served.settings.request_images, masks=True)
        place.take(len(uploads))
        with served.metrics.models.request(gallery) as timed:
            found = await served.find(
                request, gallery, uploads, timed, snapshot=snapshot, maps=maps, threshold=threshold
            )
            answered = (found.images, found.answers, found.preprocessing, timed.begun)
            described = await anyio.to_thread.run_sync(served.described, gallery, uploads, *answered)
    return wire.QueryAnswer(gallery=gallery, snapshot=described[0].snapshot, results=described)


@router.post(
    "/galleries/{gallery}/score-map",
    response_class=Response,
    responses=binary("image/png", NPY),
    openapi_extra=image_body(FIELD, many=False, masks=True),
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
    served.galleries.require(gallery)
    with served.engine.place() as place:
        uploads = await read_uploads(request, 1, masks=True)
        place.take(1)
        with served.metrics.models.request(gallery) as timed:
            found = await served.find(request, gallery, uploads, timed, snapshot=snapshot, maps="always")
            result = results.result_of(gallery, uploads[0], found.images[0], found.answers[0], found.preprocessing)
            response = await rendered(served, result, format, opacity)
            await anyio.to_thread.run_sync(served.note, gallery, uploads, found, timed.begun)
    detection = result.answer.detection
    response.headers["X-Score"] = repr(detection.score)
    response.headers["X-Snapshot"] = str(detection.snapshot)
    if detection.anomalous is not None:
        response.headers["X-Anomalous"] = str(detection.anomalous).lower()
    return response


def _summary(served: Service, name: str) -> wire.GallerySummary:
    images = snapshot = backbone = error = None
    calibrated = interest = False
    try:
        with served.galleries.open(name) as opened:
            images, snapshot, backbone = len(opened), opened.snapshot, opened.settings.backbone
            key = opened.calibration_key(served.settings.search.settings(tuned_search(opened)))
            calibrated = opened.catalog.calibration(key) is not None
            interest = opened.is_limited
    except (SpadeIndexError, Problem) as failure:
        error = str(as_problem(failure, served.galleries.root).detail)
    return wire.GallerySummary(
        name=name,
        images=images,
        snapshot=snapshot,
        backbone=backbone,
        calibrated=calibrated,
        open=served.galleries.is_open(name),
        error=error,
        region_of_interest=interest,
    )


def described(served: Service, name: str, key: Key) -> wire.GalleryInfo:
    """Describe a gallery. Raises Problem (404), GalleryError."""
    with served.galleries.open(name) as opened:
        info, settings = opened.info(), opened.settings
        info["snapshots"] = info["snapshots"][-PAGE_SNAPSHOTS:]
        search = served.settings.search.settings(tuned_search(opened))
        stored = stored_calibration(opened, search)
    kept = ["images", "snapshot", "snapshots", "created", "removed_images", "shard_bytes", "settings", "index"]
    kept += ["tuned", "region_of_interest"]
    return wire.GalleryInfo(
        name=name,
        backbone=settings.backbone,
        input_size=settings.preprocessing.input_size,
        search={field: value for field, value in asdict(search).items() if field != "maps"},
        thresholds={} if stored is None else stored.thresholds,
        false_alarms=None if stored is None else stored.false_alarms,
        open=served.galleries.is_open(name),
        may_write=key.allows(name, write=True) and not served.galleries.read_only,
        **{field: info[field] for field in kept},
    )
