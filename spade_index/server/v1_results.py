"""The native API's results: score maps and evidence of earlier queries, drawn."""

import io
from typing import Annotated

import anyio
import numpy as np
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from PIL import Image

from spade_index import wire
from spade_index.views.files import mark

from . import results
from .access import ReadRoute, permitted
from .results import Result
from .schema import PROBLEMS, binary
from .service import Service, service_of

NPY = "application/x-npy"
MAX_EDGE = 1 << 30  # pixels

Opacity = Annotated[float, Query(ge=0, le=1, description="Of the overlay half-way between the limits")]
ResultId = Annotated[str, Path(description="Of a result's `score_map`")]

router = APIRouter(prefix="/v1", responses=PROBLEMS, route_class=ReadRoute)


def result_of(request: Request, id: ResultId) -> Result:
    """Return a kept result, if the key may read its gallery. Raises Problem (403, 404)."""
    found = service_of(request).results.get(id)
    permitted(request, found.gallery, write=False)
    return found


KeptResult = Annotated[Result, Depends(result_of)]


@router.get("/results/{id}", tags=["results"])
def result(request: Request, id: ResultId, found: KeptResult) -> wire.ResultInfo:
    """Return the result of a query again."""
    return results.described_kept(id, found, service_of(request).results.seconds)


@router.get("/results/{id}/overlay.png", response_class=Response, responses=binary("image/png"), tags=["results"])
async def overlay(request: Request, found: KeptResult, opacity: Opacity = 0.5) -> Response:
    """Return the score map over the image, in its own coordinates."""
    return await rendered(service_of(request), found, "overlay", opacity)


@router.get("/results/{id}/heat.png", response_class=Response, responses=binary("image/png"), tags=["results"])
async def heat(request: Request, found: KeptResult) -> Response:
    """Return the overlay's colours alone, transparent where the image is normal, to be laid over the image."""
    return await rendered(service_of(request), found, "heat", 0.5)


@router.get("/results/{id}/grey.png", response_class=Response, responses=binary("image/png"), tags=["results"])
async def grey(request: Request, found: KeptResult) -> Response:
    """Return the score map as 8-bit grey over the result's `limits`, of the backbone's input size."""
    return await rendered(service_of(request), found, "grey", 0.5)


@router.get("/results/{id}/score_map.npy", response_class=Response, responses=binary(NPY), tags=["results"])
async def npy(request: Request, found: KeptResult) -> Response:
    """Return the score map, float32 [H, W] of the backbone's input size, as NumPy stores it."""
    return await rendered(service_of(request), found, "npy", 0.5)


@router.get("/results/{id}/match", tags=["results"])
def match(
    found: KeptResult,
    x: Annotated[int, Query(ge=0, le=MAX_EDGE, description="Column of the original, from 0")],
    y: Annotated[int, Query(ge=0, le=MAX_EDGE, description="Row of the original, from 0")],
) -> wire.MatchInfo:
    """Return the normal image and place that a pixel of the image was matched with."""
    return found.match(x, y)


async def rendered(served: Service, result: Result, format: str, opacity: float) -> Response:
    """Draw a result, once there is a place; those that wait occupy no thread."""
    async with served.drawing:
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
