"""The Open Inference Protocol v2 (KServe, Triton): a gallery is a model, a snapshot its version.

https://github.com/kserve/open-inference-protocol, and Triton's extension for binary tensors.
"""

import math
import re
import sys
from importlib.metadata import version
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Path, Request, Response
from starlette.responses import JSONResponse

from spade_index.errors import SpadeIndexError
from spade_index.method.tuned import tuned_search
from spade_index.settings import MAPS, Maps

from .access import ReadRoute, RequestKey
from .decoding import Upload
from .limits import PAGE_SNAPSHOTS
from .outputs import OUTPUTS, output_shapes
from .problems import Problem, as_problem
from .service import Service, service_of
from .tensors import HEADER, InferRequest, Output, OutputWish, TensorError, parse_request, render_response

Model = Annotated[str, Path(description="A gallery")]
Version = Annotated[str, Path(description="One of its snapshots")]

IMAGE, PIXELS = "image", "pixels"
INPUTS = [
    {"name": IMAGE, "datatype": "BYTES", "shape": [-1]},  # files; or
    {"name": PIXELS, "datatype": "UINT8", "shape": [-1, -1, -1, 3]},  # B, H, W, RGB
]
NUMBER = re.compile("[0-9]{1,18}")
LARGEST = sys.float_info.max
ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}

PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "What is wrong with the request", "content": {"application/json": {"schema": ERROR}}},
    "5XX": {"description": "What is wrong with the service", "content": {"application/json": {"schema": ERROR}}},
}

# Who asks whether the service lives needs no key.
health = APIRouter(prefix="/v2", tags=["open inference protocol"], responses=PROBLEMS)
router = APIRouter(prefix="/v2", tags=["open inference protocol"], responses=PROBLEMS, route_class=ReadRoute)


@health.get("")
async def server() -> dict[str, Any]:
    """Return the name, version and extensions of the server."""
    return {"name": "spade_index", "version": version("spade_index"), "extensions": ["binary_tensor_data"]}


@health.get("/health/live")
async def live() -> dict[str, bool]:
    """Return whether the service answers."""
    return {"live": True}


@health.get("/health/ready")
async def ready(request: Request) -> JSONResponse:
    """Return whether the service takes queries and jobs, and all its threads live: 503 if not."""
    ready = service_of(request).ready
    return JSONResponse({"ready": ready}, 200 if ready else 503)


@router.post("/repository/index")
def repository(request: Request, key: RequestKey) -> list[dict[str, str]]:
    """List all models that the key may read."""
    served = service_of(request)
    return [_state(served, name) for name in served.galleries.names() if key.allows(name, write=False)]


@router.get("/models/{model}")
@router.get("/models/{model}/versions/{version}")
def metadata(request: Request, model: Model, version: Version | None = None) -> dict[str, Any]:
    """Return a model's versions, inputs and outputs."""
    with service_of(request).galleries.open(model, _snapshot(version)) as gallery:
        height, width = gallery.settings.preprocessing.input_size
        versions = [str(row.snapshot) for row in gallery.catalog.snapshots() if row.images]
        neighbours = service_of(request).settings.search.settings(tuned_search(gallery)).score_neighbours
    shapes = output_shapes((height, width), neighbours)
    return {
        "name": model,
        "versions": versions[-PAGE_SNAPSHOTS:],
        "platform": "spade_index",
        "inputs": INPUTS,
        "outputs": [{"name": name, "datatype": datatype, "shape": shape} for name, (datatype, shape) in shapes.items()],
    }


@router.get("/models/{model}/ready")
@router.get("/models/{model}/versions/{version}/ready")
def model_ready(request: Request, model: Model, version: Version | None = None) -> dict[str, Any]:
    """Return whether a model can be used."""
    with service_of(request).galleries.open(model, _snapshot(version)) as gallery:
        if not len(gallery):
            raise Problem(503, f"{model}: the gallery is empty: add normal images first")
    return {"name": model, "ready": True}


@router.post("/models/{model}/infer")
@router.post("/models/{model}/versions/{version}/infer")
async def infer(request: Request, model: Model, version: Version | None = None) -> Response:
    """Score images: the input `image`, files, or `pixels`."""
    served = service_of(request)
    served.galleries.path(model)
    snapshot = _snapshot(version)
    with served.engine.place() as place:
        asked = await _parsed(request)
        uploads = _uploads(asked, served.settings.request_images)
        wishes = _wishes(asked)
        how = (await anyio.to_thread.run_sync(served.galleries.settings_of, model)).preprocessing
        _require_few_values(wishes, len(uploads), how.input_size, served.settings.json_elements)
        place.take(len(uploads))
        found = await served.find(
            request,
            model,
            uploads,
            snapshot=snapshot,
            maps=_maps(asked, wishes),
            threshold=_threshold(asked),
        )
        size = found.preprocessing.input_size
        outputs = [Output(wish.name, OUTPUTS[wish.name](found.answers, size), wish.binary) for wish in wishes]
        facts = {"model_name": model, "model_version": str(found.answers[0].detection.snapshot)}
        facts |= {"id": asked.id} if asked.id is not None else {}
        body, head = await anyio.to_thread.run_sync(render_response, facts, outputs)
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
        raise Problem(400, str(error)) from error


def _uploads(asked: InferRequest, most: int) -> list[Upload]:
    """Return the images of a request. Raises Problem (400)."""
    if len(asked.inputs) != 1 or not asked.inputs.keys() <= {IMAGE, PIXELS}:
        raise Problem(400, f"give one input: {IMAGE!r} (BYTES, files) or {PIXELS!r} (UINT8 [B, H, W, 3])")
    (name, tensor), *_ = asked.inputs.items()
    if (name == IMAGE) != isinstance(tensor, list):
        raise Problem(400, f"input {IMAGE!r} is of datatype BYTES, {PIXELS!r} of UINT8")
    if not isinstance(tensor, list) and (tensor.ndim != 4 or tensor.shape[3] != 3 or not tensor.size):
        raise Problem(400, f"input {PIXELS!r}: its shape is not [B, H, W, 3]")
    if not 0 < len(tensor) <= most:
        raise Problem(400, f"{len(tensor)} images: a request has 1 to {most}")
    if isinstance(tensor, list):
        return [Upload(None, data) for data in tensor]
    return [Upload(None, b"", pixels) for pixels in tensor]


def _wishes(asked: InferRequest) -> list[OutputWish]:
    wishes = asked.outputs or [OutputWish(name, asked.binary_by_default) for name in OUTPUTS]
    names: set[str] = set()
    for wish in wishes:
        if wish.name in names:
            raise Problem(400, f"output {wish.name!r} is there twice")
        names.add(wish.name)
        if wish.name not in OUTPUTS:
            raise Problem(400, f"no output {wish.name!r}: there are {', '.join(OUTPUTS)}")
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
        raise Problem(400, "parameter `threshold` must be a number, and finite")
    return float(threshold)


def _snapshot(version: str | None) -> int | None:
    if version is None:
        return None
    if not NUMBER.fullmatch(version):
        raise Problem(404, "a version is the number of a snapshot")
    return int(version)


def _state(served: Service, name: str) -> dict[str, str]:
    try:
        with served.galleries.open(name) as gallery:
            return {"name": name, "version": str(gallery.snapshot), "state": "READY", "reason": ""}
    except (SpadeIndexError, Problem) as error:
        reason = str(as_problem(error, str(served.galleries.root)).detail)
        return {"name": name, "version": "", "state": "UNAVAILABLE", "reason": reason}
