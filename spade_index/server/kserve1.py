"""KServe's protocol v1: a gallery is a model, and each instance of a prediction is an image file in base64.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
"""

import base64
from dataclasses import field
from typing import Any

import anyio
from fastapi import APIRouter, Request
from pydantic.dataclasses import dataclass

from spade_index import wire
from spade_index.exact import JsonError
from spade_index.wording import number_of

from .access import ReadRoute, RequestKey
from .decoding import Upload
from .json_bodies import parse_json
from .problems import Problem
from .schema import PROBLEMS
from .service import service_of
from .tensor_values import TensorError, known
from .v2_models import Model, model_ready

FILE = {
    "type": "object",
    "properties": {"b64": {"type": "string", "description": "An image file in base64"}},
    "required": ["b64"],
    "additionalProperties": False,
}
NAMED = {
    "type": "object",
    "properties": {"image_bytes": FILE},
    "required": ["image_bytes"],
    "additionalProperties": False,
}
INSTANCES = {"type": "array", "items": {"anyOf": [NAMED, FILE]}, "minItems": 1}
BODY = {
    "type": "object",
    "properties": {"instances": INSTANCES},
    "required": ["instances"],
    "additionalProperties": False,
}
DESCRIBED = {"requestBody": {"required": True, "content": {"application/json": {"schema": BODY}}}}

router = APIRouter(prefix="/v1", tags=["kserve v1"], responses=PROBLEMS, route_class=ReadRoute)


@dataclass(frozen=True)
class ModelNames:
    """The names of models."""

    models: tuple[str, ...]


@dataclass(frozen=True)
class ModelState:
    """Whether a model can be used."""

    name: str
    ready: bool


@dataclass(frozen=True)
class Prediction(wire.ResultInfo):
    """The result for one image, and its score in 0..1: `anomaly` is 1 - `p_value`, null without a calibration."""

    anomaly: float | None = field(kw_only=True)


@dataclass(frozen=True)
class Predictions:
    """Results in the order of the instances."""

    predictions: tuple[Prediction, ...]


@router.get("/models")
def models(request: Request, key: RequestKey) -> ModelNames:
    """List the names of all galleries that the key may read."""
    names = service_of(request).galleries.names()
    return ModelNames(tuple(name for name in names if key.allows(name, write=False)))


@router.get("/models/{model}")
def state(request: Request, model: Model) -> ModelState:
    """Return whether a gallery can be queried: 503 if it is empty."""
    return ModelState(**model_ready(request, model))


@router.post("/models/{model}:predict", openapi_extra=DESCRIBED)
async def predict(request: Request, model: Model) -> Predictions:
    """Score images: each instance is `{"image_bytes": {"b64": "..."}}` or `{"b64": "..."}`."""
    served = service_of(request)
    limits = served.settings
    served.galleries.require(model)
    with served.engine.place() as place:
        body = await request.body()
        async with served.parsing:
            files = await anyio.to_thread.run_sync(files_of, body, limits.request_images, limits.json_elements)
        uploads = [Upload(None, file) for file in files]
        place.take(len(uploads))
        with served.metrics.models.request(model) as timed:
            found = await served.find(request, model, uploads, timed)
            answered = (found.images, found.answers, found.preprocessing, timed.begun)
            described = await anyio.to_thread.run_sync(served.described, model, uploads, *answered)
    return Predictions(tuple(map(_prediction, described)))


def files_of(body: bytes, most_images: int, most_elements: int) -> list[bytes]:
    """Return the image files in the JSON of a prediction. Raises Problem (422) with the place at fault."""
    try:
        given = parse_json(body, most_elements)
    except JsonError as error:
        raise Problem(422, str(error), field="body") from error
    instances = _object(given, "body", {"instances"}).get("instances")
    if not isinstance(instances, list):
        raise Problem(422, "`instances` is no list", field="instances")
    if not 0 < len(instances) <= most_images:
        raise Problem(422, f"{number_of(len(instances), 'image')}: a request has 1 to {most_images}", field="instances")
    return [_file(instance, f"instances[{number}]") for number, instance in enumerate(instances)]


def _file(instance: Any, place: str) -> bytes:
    """Return the file of an instance. Raises Problem (422)."""
    found = _object(instance, place, {"image_bytes", "b64"})
    if len(found) != 1:
        raise Problem(422, f"{place}: give either image_bytes or b64", field=place)
    if "image_bytes" in found:
        place = f"{place}.image_bytes"
        found = _object(found["image_bytes"], place, {"b64"})
    text = found.get("b64")
    try:
        if not isinstance(text, str):
            raise TypeError
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError) as error:
        raise Problem(422, f"{place}.b64 is no string in base64", field=f"{place}.b64") from error


def _object(value: Any, place: str, names: set[str]) -> dict[str, Any]:
    """Return an object that has these names alone. Raises Problem (422)."""
    try:
        return dict(known(value, place, names))
    except TensorError as error:
        raise Problem(422, str(error), field=place) from error


def _prediction(result: wire.ResultInfo) -> Prediction:
    anomaly = None if result.p_value is None else 1 - result.p_value
    return Prediction(**vars(result), anomaly=anomaly)
