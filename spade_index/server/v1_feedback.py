"""The native API's feedback: "this one is fine" adds an image with a note of who and when; undo removes it again."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import anyio
from fastapi import APIRouter, Path, Query, Request, Response

from spade_index import wire
from spade_index.errors import ImageError
from spade_index.exact import first_second, last_second, number
from spade_index.gallery.catalog.defects import KIND_LENGTH
from spade_index.gallery.feedback import FeedbackFilter, history, in_words, is_there
from spade_index.gallery.store.defect import LARGEST
from spade_index.method.known_defects import Place
from spade_index.method.named_defects import MOST_PLACES
from spade_index.settings import Preprocessing
from spade_index.views.text import cell_of
from spade_index.wire_feedback import DriftInfo, FeedbackInfo, FeedbackList, Said

from .access import AddRoute, ReadRoute, RequestKey, WriteRoute
from .calibrated import keep_calibrated
from .forms import FIELD
from .job import Job, kind_fault, new_id
from .limits import NAME_LENGTH, NOTE_LENGTH, PAGE_IMAGES
from .problems import Problem
from .recent import Kept
from .results import drawn, drawn_size
from .schema import PROBLEMS, binary, image_body
from .service import Service, service_of, without_waiting
from .v1 import GalleryName
from .v1_changes import received
from .writing import open_writer

COLUMNS = ("given", "who", "verdict", "id", "there", "note", "kind")
SMALL_EDGE = 256  # pixels of a small picture
TABLE: dict[int | str, dict[str, Any]] = {200: {"content": {"text/csv": {"schema": {"type": "string"}}}}}

saying = APIRouter(prefix="/v1", responses=PROBLEMS, route_class=AddRoute)
undoing = APIRouter(prefix="/v1", responses=PROBLEMS, route_class=WriteRoute)
reading = APIRouter(prefix="/v1", responses=PROBLEMS, route_class=ReadRoute)


@saying.post(
    "/galleries/{gallery}/feedback", status_code=202, openapi_extra=image_body(FIELD, raw=False), tags=["images"]
)
async def say(
    request: Request,
    response: Response,
    gallery: GalleryName,
    key: RequestKey,
    verdict: Annotated[Said, Query(description="The images are fine, or show a defect")] = "false_alarm",
    kind: Annotated[
        str,
        Query(max_length=KIND_LENGTH, description="Of the defects; `defect` needs it, unless each `box` says its own"),
    ] = "",
    note: Annotated[str, Query(max_length=NOTE_LENGTH, description="Why, in words")] = "",
    box: Annotated[
        tuple[str, ...],
        Query(
            max_length=MOST_PLACES,
            description="X,Y,WIDTH,HEIGHT of a defect in the one image, in its pixels, or X,Y,WIDTH,HEIGHT:KIND of one "
            "that is not of `kind`; repeatable",
        ),
    ] = (),
    preview: Annotated[
        bool, Query(description="Change nothing: tell which verdicts of the images judged last would change")
    ] = False,
) -> wire.JobInfo:
    """Say that images were called anomalous and are fine, and become normal images; or that they show a defect.

    The regions of defective images become known defects. A job does it, whose `feedback_ids` undo it.
    Where the gallery is calibrated, the calibration is carried on. With `preview`, the job changes a copy of the
    gallery, judges the images that were judged last by both, and tells in `previewed` which verdicts differ.
    """
    if not note.isprintable():
        raise Problem(422, "it is not printable", field="note")
    if box and verdict == "false_alarm":
        raise Problem(422, "it belongs to the verdicts `missed` and `defect`", field="box")
    boxes = [_box(text) for text in box]
    kinds = [kind if own is None else own for _, own in boxes]
    if (fault := kind_fault(verdict, kind, kinds)) is not None:
        raise Problem(422, fault, field="kind")
    # A camera names all its images alike, so the time tells them apart. Copies are found by their contents.
    prefix = f"feedback/{datetime.now(UTC):%Y%m%dT%H%M%S.%f}/"
    said = Job(new_id(), gallery, False, prefix, again=True, verdict=verdict, who=key.name, note=note, kind=kind)
    if preview and said.names_defects:
        raise Problem(422, "known defects change no verdict: there is nothing to preview", field="preview")
    said = replace(said, preview=preview, boxes=[place for place, _ in boxes], kinds=kinds)
    return await received(request, response, said, 1 if boxes else service_of(request).settings.request_images)


@reading.get("/galleries/{gallery}/feedback", response_model=FeedbackList, responses=TABLE, tags=["images"])
def feedback(
    request: Request,
    gallery: GalleryName,
    contains: Annotated[
        str, Query(max_length=NAME_LENGTH, description="In the id, the name, the note or the kind")
    ] = "",
    verdict: Annotated[Said | None, Query(description="What was said")] = None,
    kind: Annotated[
        str | None, Query(max_length=KIND_LENGTH, description="Of any of its defects, exactly; empty: none was said")
    ] = None,
    who: Annotated[str | None, Query(max_length=NAME_LENGTH, description="Who said it, exactly")] = None,
    since: Annotated[str | None, Query(description="Date or time (ISO 8601, UTC), included")] = None,
    until: Annotated[str | None, Query(description="Date or time (ISO 8601, UTC), included to its end")] = None,
    undone: Annotated[bool | None, Query(description="Whether it was taken back, or its image removed")] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_IMAGES)] = 100,
    format: Annotated[Literal["json", "csv"], Query(description="As a table for spreadsheets instead")] = "json",
) -> Any:
    """List what people said of images that were added because of it, the newest first."""
    first, last = _second("since", since, first_second), _second("until", until, last_second)
    wanted = FeedbackFilter(contains, verdict, kind, who, first, last, undone)
    with service_of(request).galleries.open(gallery) as opened:
        found = history(opened, wanted)
        listed = tuple(
            FeedbackInfo(**vars(row), there=is_there(opened, row.id), kind=in_words(kinds), kinds=tuple(kinds))
            for row, kinds in found[: -limit - 1 : -1]
        )
    if format == "csv":
        return Response(_table(listed), media_type="text/csv")
    return FeedbackList(listed, found=len(found))


@reading.get(
    "/galleries/{gallery}/defects/{number}/picture",
    response_class=Response,
    responses=binary("image/jpeg"),
    tags=["images"],
)
def defect_picture(
    request: Request,
    gallery: GalleryName,
    number: Annotated[int, Path(ge=0, le=2**62, description="`defect` of a region's `known_defect`")],
) -> Response:
    """Return a small JPEG of a known defect and its surroundings."""
    with service_of(request).galleries.open(gallery) as opened:
        jpeg = opened.catalog.defect_picture(number)
    if jpeg is None:
        raise Problem(404, f"the gallery knows no defect {number} (any more)", field="number")
    return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400"})


@reading.get("/galleries/{gallery}/drift", tags=["images"])
def drift(request: Request, gallery: GalleryName) -> DriftInfo:
    """Tell whether the images that were judged last are like those of the calibration, in score and brightness."""
    return service_of(request).drift.of(gallery)


@reading.get(
    "/galleries/{gallery}/judged/{id}/picture", response_class=Response, responses=binary("image/jpeg"), tags=["images"]
)
async def judged_picture(
    request: Request, gallery: GalleryName, id: Annotated[str, Path(description="Of a change that a preview tells")]
) -> Response:
    """Return a small JPEG of an image that was judged lately."""
    served = service_of(request)
    kept = served.recent.get(gallery, id)
    if kept is None:
        raise Problem(404, "the service does not keep this image (any more)", field="id")
    async with served.drawing:
        jpeg = await anyio.to_thread.run_sync(_drawn, kept, served.galleries.settings_of(gallery).preprocessing)
    return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400"})


@undoing.delete("/galleries/{gallery}/feedback", tags=["images"])
def undo(
    request: Request, gallery: GalleryName, id: Annotated[str, Query(description="Of an image that feedback added")]
) -> wire.Changed:
    """Undo feedback: remove its image, and forget it in the calibration. What was said stays in the list."""
    return undone(service_of(request), gallery, [id])


def undone(served: Service, gallery: str, ids: Sequence[str]) -> wire.Changed:
    """Undo the feedback about some images. Raises Problem (403, 404, 503), UnknownImage, GalleryLocked."""
    path = served.galleries.path(gallery)
    with without_waiting(served.changing, "other changes"), open_writer(path, served.settings.change_seconds) as writer:
        snapshot = writer.gallery.snapshot
        for id in ids:
            writer.undo_feedback(id)
        if writer.gallery.snapshot != snapshot:  # known defects are in no snapshot, nor in the calibration
            keep_calibrated(writer, served.settings)
        return wire.Changed(changed=len(ids), images=len(writer.gallery), snapshot=writer.gallery.snapshot)


def _drawn(kept: Kept, how: Preprocessing) -> bytes:
    """Return a small JPEG of an image that is kept. Raises Problem (422)."""
    buffer = io.BytesIO()
    try:
        drawn(kept.upload, how, drawn_size(kept.geometry, SMALL_EDGE)).save(buffer, "JPEG", quality=85)
    except ImageError as error:  # it was judged by another gallery of that name
        raise Problem(422, str(error), field="id") from error
    return buffer.getvalue()


def _box(text: str) -> tuple[Place, str | None]:
    """Return a box as a parameter gives it, and the kind of its defect if it says one. Raises Problem (422)."""
    place, says_kind, kind = text.partition(":")
    try:
        x, y, width, height = map(number, place.split(","))
        if min(x, y) < 0 or min(width, height) < 1 or max(x, y, width, height) > LARGEST:
            raise ValueError
    except ValueError:
        example = "10,20,32,32 or 10,20,32,32:scratch"
        raise Problem(422, f"write X,Y,WIDTH,HEIGHT in pixels of the image, such as {example}", field="box") from None
    if says_kind and not (kind.isprintable() and 0 < len(kind) <= KIND_LENGTH):
        fault = f"the kind after the colon must be printable, and have 1 to {KIND_LENGTH} characters"
        raise Problem(422, fault, field="box")
    return (x, y, width, height), kind if says_kind else None


def _second(name: str, text: str | None, read: Callable[[str], str]) -> str | None:
    """Return a second that bounds the history, as a parameter gives it. Raises Problem (422)."""
    try:
        return None if text is None else read(text)
    except ValueError as error:
        raise Problem(422, str(error), field=name) from None


def _table(rows: tuple[FeedbackInfo, ...]) -> str:
    """Return feedback as CSV (RFC 4180)."""
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([cell_of(getattr(row, name)) for name in COLUMNS])
    return table.getvalue()
