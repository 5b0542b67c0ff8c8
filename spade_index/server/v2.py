"""The Open Inference Protocol v2 (KServe, Triton): a gallery is a model, a snapshot its version.

https://github.com/kserve/open-inference-protocol, and Triton's extension for binary tensors.
"""

import math
from importlib.metadata import version
from typing import Any

import anyio
import numpy as np
from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from spade_index.settings import MAPS, Maps
from spade_index.wording import number_of

from .access import ReadRoute
from .decoding import Upload
from .outputs import OUTPUTS
from .problems import Problem
from .service import service_of
from .tensors import HEADER, InferRequest, Output, OutputWish, TensorError, parse_request, render_response
from .v2_models import IMAGE, NUMBER, PIXELS, PROBLEMS, Model, Version, snapshot_of

EXTENSIONS = ["binary_tensor_data", "model_configuration", "statistics"]
LARGEST = float(np.finfo(np.float32).max)  # the output `threshold` is FP32
# Who asks whether the service lives needs no key.
health = APIRouter(prefix="/v2", tags=["open inference protocol"], responses=PROBLEMS)
router = APIRouter(prefix="/v2", tags=["open inference protocol"], responses=PROBLEMS, route_class=ReadRoute)


@health.get("")
async def server() -> dict[str, Any]:
    """Return the name, version and extensions of the server."""
    return {"name": "spade_index", "version": version("spade_index"), "extensions": EXTENSIONS}


@health.get("/health/live")
async def live() -> dict[str, bool]:
    """Return whether the service answers."""
    return {"live": True}


@health.get("/health/ready")
async def ready(request: Request) -> JSONResponse:
    """Return whether the service takes queries and jobs, and all its threads live: 503 if not."""
    ready = service_of(request).ready
    return JSONResponse({"ready": ready}, 200 if ready else 503)


@router.post("/models/{model}/infer")
@router.post("/models/{model}/versions/{version}/infer")
async def infer(request: Request, model: Model, version: Version | None = None) -> Response:
    """Score images: the input `image`, files, or `pixels`."""
    served = service_of(request)
    served.galleries.require(model)
    snapshot = snapshot_of(version)
    with served.engine.place() as place:
        asked = await _parsed(request)
        uploads = _uploads(asked, served.settings.request_images)
        wishes = _wishes(asked)
        how = (await anyio.to_thread.run_sync(served.galleries.settings_of, model)).preprocessing
        _require_few_values(wishes, len(uploads), how.input_size, served.settings.json_elements)
        place.take(len(uploads))
        with served.metrics.models.request(model) as timed:
            found = await served.find(
                request,
                model,
                uploads,
                timed,
                snapshot=snapshot,
                maps=_maps(asked, wishes),
                threshold=_threshold(asked),
            )
            size = found.preprocessing.input_size
            outputs = [Output(wish.name, OUTPUTS[wish.name](found.answers, size), wish.binary) for wish in wishes]
            facts = {"model_name": model, "model_version": str(found.answers[0].detection.snapshot)}
            facts |= {"id": asked.id} if asked.id is not None else {}
            body, head = await anyio.to_thread.run_sync(render_response, facts, outputs)
            await anyio.to_thread.run_sync(served.note, model, uploads, found, timed.begun)
    if head is None:
        return Response(body, media_type="application/json")
    return Response(body, media_type="application/octet-stream", headers={HEADER: str(head)})


async def _parsed(request: Request) -> InferRequest:
    served = service_of(request)
    limits = served.settings
    length = request.headers.get(HEADER)
    if length is not None and not NUMBER.fullmatch(length):
        raise Problem(400, f"{HEADER} is not the number of bytes of a body")
    size = None if length is None else int(length)
    body = await request.body()
    try:
        async with served.parsing:
            return await anyio.to_thread.run_sync(
                parse_request, body, size, limits.request_images, limits.json_elements
            )
    except TensorError as error:
        raise Problem(error.status, str(error)) from error


def _uploads(asked: InferRequest, most: int) -> list[Upload]:
    """Return the images of a request. Raises Problem (400, 422)."""
    if unknown := asked.inputs.keys() - {IMAGE, PIXELS}:
        raise Problem(422, f"no input {min(unknown)!r}: there are {IMAGE}, {PIXELS}")
    if len(asked.inputs) != 1:
        raise Problem(400, f"give one input: {IMAGE!r} (BYTES, files) or {PIXELS!r} (UINT8 [B, H, W, 3])")
    (name, tensor), *_ = asked.inputs.items()
    if (name == IMAGE) != isinstance(tensor, list):
        raise Problem(400, f"input {IMAGE!r} is of datatype BYTES, {PIXELS!r} of UINT8")
    if not isinstance(tensor, list) and (tensor.ndim != 4 or tensor.shape[3] != 3 or not tensor.size):
        raise Problem(400, f"input {PIXELS!r}: its shape is not [B, H, W, 3]")
    if not 0 < len(tensor) <= most:
        raise Problem(400, f"{number_of(len(tensor), 'image')}: a request has 1 to {most}")
    if isinstance(tensor, list):
        return [Upload(None, data) for data in tensor]
    return [Upload(None, b"", pixels) for pixels in tensor]


def _wishes(asked: InferRequest) -> list[OutputWish]:
    """Return the outputs to make. Raises Problem (422)."""
    wishes = asked.outputs or [OutputWish(name, asked.binary_by_default) for name in OUTPUTS]
    names: set[str] = set()
    for wish in wishes:
        if wish.name in names:
            raise Problem(422, f"output {wish.name!r} is there twice")
        names.add(wish.name)
        if wish.name not in OUTPUTS:
            raise Problem(422, f"no output {wish.name!r}: there are {', '.join(OUTPUTS)}")
    return wishes


def _require_few_values(wishes: list[OutputWish], images: int, size: tuple[int, int], most: int) -> None:
    """Raise Problem (400) for an answer of more values in JSON than are made for one request."""
    values = sum(images * math.prod(size) for wish in wishes if wish.name == "score_map" and not wish.binary)
    if values > most:
        detail = f"`score_map` would have {values:,} values in JSON, over the limit of {most:,}: ask for binary_data"
        raise Problem(400, detail)


def _maps(asked: InferRequest, wishes: list[OutputWish]) -> Maps | None:
    """Return which score maps to make: by default, those that are asked for."""
    maps: Maps | None = asked.parameters.get("maps")
    if maps is None:
        return "always" if any(wish.name == "score_map" for wish in wishes) else None
    if maps not in MAPS:
        raise Problem(400, f"parameter `maps` must be one of {', '.join(MAPS)}")
    return maps


def _threshold(asked: InferRequest) -> float | None:
    threshold = asked.parameters.get("threshold")
    if threshold is None:
        return None
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not abs(threshold) <= LARGEST:
        raise Problem(400, f"parameter `threshold` must be a number, and finite as FP32 (at most {LARGEST:.7g})")
    return float(threshold)
