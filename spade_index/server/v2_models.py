"""The Open Inference Protocol v2 on models: metadata, and Triton's extensions for configuration and statistics.

A gallery is a model, and a snapshot its version.
"""

import re
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict

from spade_index.errors import SpadeIndexError
from spade_index.gallery.reader import Gallery
from spade_index.method.tuned import tuned_search

from .access import AskRoute, ReadRoute, RequestKey
from .limits import PAGE_SNAPSHOTS
from .outputs import output_shapes
from .problems import Problem, as_problem
from .service import Service, service_of
from .statistics import VersionStatistics

Model = Annotated[str, Path(description="A gallery")]
Version = Annotated[str, Path(description="One of its snapshots")]
Facts = dict[str, Any]

IMAGE, PIXELS = "image", "pixels"
STATS = "stats"  # the name of a model that Triton's address of all statistics hides
INPUTS: dict[str, tuple[str, list[int]]] = {
    IMAGE: ("BYTES", [-1]),  # files; or
    PIXELS: ("UINT8", [-1, -1, -1, 3]),  # B, H, W, RGB
}
CONFIG_TYPES = {"BYTES": "TYPE_STRING", "UINT8": "TYPE_UINT8", "FP32": "TYPE_FP32", "BOOL": "TYPE_BOOL"}
NUMBER = re.compile("0|[1-9][0-9]{0,17}")
ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}

PROBLEMS: dict[int | str, Facts] = {
    "4XX": {"description": "What is wrong with the request", "content": {"application/json": {"schema": ERROR}}},
    "5XX": {"description": "What is wrong with the service", "content": {"application/json": {"schema": ERROR}}},
}

router = APIRouter(prefix="/v2", tags=["open inference protocol"], responses=PROBLEMS, route_class=ReadRoute)
asking = APIRouter(prefix="/v2", tags=["open inference protocol"], responses=PROBLEMS, route_class=AskRoute)


class Wanted(BaseModel):
    """Which models to list."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ready: bool = False


@asking.post("/repository/index")
def repository(request: Request, key: RequestKey, wanted: Wanted | None = None) -> list[dict[str, str]]:
    """List all models that the key may read; with `ready`, those that can be used."""
    served = service_of(request)
    models = [_state(served, name) for name in served.galleries.names() if key.allows(name, write=False)]
    return [model for model in models if model["state"] == "READY" or wanted is None or not wanted.ready]


@router.get("/models/stats")
def all_statistics(request: Request, key: RequestKey) -> Facts:
    """Return the statistics of all models that the key may read and that have answered an inference.

    A model may be called `stats`: its metadata has the same address, and is told besides.
    """
    served = service_of(request)
    found: list[Facts] = []
    facts: Facts = {}
    if key.allows(STATS, write=False):
        with suppress(SpadeIndexError, Problem):  # there is none, or it is damaged
            facts = metadata(request, STATS)
    for name in served.metrics.models.names():
        if key.allows(name, write=False):
            with suppress(SpadeIndexError, Problem):  # it is damaged, or gone
                found += _statistics(served, name)
    return {**facts, "model_stats": found}


@router.get("/models/{model}")
@router.get("/models/{model}/versions/{version}")
def metadata(request: Request, model: Model, version: Version | None = None) -> Facts:
    """Return a model's versions, inputs and outputs."""
    with service_of(request).galleries.open(model, snapshot_of(version)) as gallery:
        outputs = _outputs(service_of(request), gallery)
        versions = [str(row.snapshot) for row in gallery.catalog.snapshots() if row.images]
    inputs, outputs_ = (
        [{"name": name, "datatype": datatype, "shape": shape} for name, (datatype, shape) in tensors.items()]
        for tensors in (INPUTS, outputs)
    )
    return {
        "name": model,
        "versions": versions[-PAGE_SNAPSHOTS:],
        "platform": "spade_index",
        "inputs": inputs,
        "outputs": outputs_,
    }


@router.get("/models/{model}/config")
@router.get("/models/{model}/versions/{version}/config")
def config(request: Request, model: Model, version: Version | None = None) -> Facts:
    """Return a model's configuration. Shapes include the number of images, so `max_batch_size` is 0."""
    served = service_of(request)
    with served.galleries.open(model, snapshot_of(version)) as gallery:
        outputs, snapshot = _outputs(served, gallery), gallery.snapshot
    inputs, outputs_ = (
        [{"name": name, "data_type": CONFIG_TYPES[datatype], "dims": shape} for name, (datatype, shape) in of.items()]
        for of in (INPUTS, outputs)
    )
    return {
        "name": model,
        "platform": "",
        "backend": "spade_index",
        "version_policy": {"all": {}} if version is None else {"specific": {"versions": [snapshot]}},
        "max_batch_size": 0,
        "input": [{**tensor, "optional": True} for tensor in inputs],  # one of them is given
        "output": outputs_,
        "instance_group": [{"name": model, "kind": "KIND_AUTO", "count": 1}],
        "parameters": {
            "max_images": {"string_value": str(served.settings.request_images)},
            "max_images_of_a_batch": {"string_value": str(served.settings.batch_images)},
        },
    }


@router.get("/models/{model}/stats")
@router.get("/models/{model}/versions/{version}/stats")
def statistics(request: Request, model: Model, version: Version | None = None) -> Facts:
    """Return counts and times of a model's inferences since the start, by version. Failures are the latest's."""
    return {"model_stats": _statistics(service_of(request), model, snapshot_of(version))}


@router.get("/models/{model}/ready")
@router.get("/models/{model}/versions/{version}/ready")
def model_ready(request: Request, model: Model, version: Version | None = None) -> Facts:
    """Return whether a model can be used."""
    with service_of(request).galleries.open(model, snapshot_of(version)) as gallery:
        if not len(gallery):
            raise Problem(503, f"{model}: the gallery is empty: add normal images first")
    return {"name": model, "ready": True}


def snapshot_of(version: str | None) -> int | None:
    """Return the snapshot of a version in a path. Raises Problem (404)."""
    if version is None:
        return None
    if not NUMBER.fullmatch(version):
        raise Problem(404, "a version is the number of a snapshot")
    return int(version)


def _outputs(served: Service, gallery: Gallery) -> dict[str, tuple[str, list[int]]]:
    neighbours = served.settings.search.settings(tuned_search(gallery)).score_neighbours
    return output_shapes(gallery.settings.preprocessing.input_size, neighbours)


def _statistics(served: Service, model: str, snapshot: int | None = None) -> list[Facts]:
    """Return the statistics of a model's versions, or of one. Raises Problem (404), GalleryError."""
    if snapshot is not None:
        served.galleries.open(model, snapshot).close()
    with served.galleries.open(model) as gallery:
        found = served.metrics.models.of(model, gallery.snapshot)
    wanted = found if snapshot is None else {snapshot: found.get(snapshot, VersionStatistics())}
    return [kept.described(model, str(version)) for version, kept in wanted.items()]


def _state(served: Service, name: str) -> dict[str, str]:
    try:
        with served.galleries.open(name) as gallery:
            return {"name": name, "version": str(gallery.snapshot), "state": "READY", "reason": ""}
    except (SpadeIndexError, Problem) as error:
        reason = str(as_problem(error, served.galleries.root).detail)
        return {"name": name, "version": "", "state": "UNAVAILABLE", "reason": reason}
