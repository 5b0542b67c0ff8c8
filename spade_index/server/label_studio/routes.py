"""The routes of Label Studio's ML backend, under one URL for each gallery: /label-studio/NAME.

https://labelstud.io/guide/ml_create describes the protocol. Label Studio adds fields as it grows, so unknown ones of
its bodies are left alone.
"""

from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Path, Request, Response

from spade_index.exact import JsonError, strict_json

from ..access import ReadRoute, WriteRoute
from ..fairness import client_of
from ..json_bodies import parse_json
from ..keys import Key
from ..limits import LABEL_TASKS
from ..logs import log
from ..problems import Problem
from ..service import service_of
from .annotations import Statement
from .backend import Task, backend_of
from .config import ConfigError, Controls, controls_of
from .webhooks import EventError, heard

GalleryName = Annotated[str, Path(description="A gallery, as GET /v1/galleries names it")]


class EventRoute(WriteRoute):
    """A route whose body may hold masks, unlike those of other changes."""

    names_images = False


reading = APIRouter(prefix="/label-studio/{gallery}", route_class=ReadRoute, include_in_schema=False)
changing = APIRouter(prefix="/label-studio/{gallery}", route_class=EventRoute, include_in_schema=False)


@reading.get("/health")
def health(request: Request, gallery: GalleryName) -> dict[str, Any]:
    """Return whether there is such a gallery."""
    service_of(request).galleries.require(gallery)
    return {"status": "UP", "model_class": "spade_index"}


@reading.post("/setup")
async def setup(request: Request, gallery: GalleryName) -> dict[str, Any]:
    """Check a project's labeling config. Its address and token, which come with it, are not used."""
    service_of(request).galleries.require(gallery)
    body = await _body(request)
    _controls(body, "schema", gallery)
    return {"model_version": await anyio.to_thread.run_sync(backend_of(request).version, gallery)}


@reading.post("/predict")
async def predict(request: Request, gallery: GalleryName) -> Response:
    """Predict for tasks, in their order. `notices` says why some have no prediction."""
    service_of(request).galleries.require(gallery)
    body = await _body(request)
    controls = _controls(body, "label_config", gallery)
    tasks = _tasks(body, controls)
    results, notices = await backend_of(request).predictions(request, gallery, tasks, controls)
    for notice in notices:
        log.warning("Label Studio: %s", notice)
    body_of_all = b'{"results": [%b], "notices": %b}' % (b", ".join(results), strict_json(notices).encode())
    return Response(body_of_all, media_type="application/json")


@changing.post("/webhook")
async def webhook(request: Request, gallery: GalleryName) -> dict[str, Any]:
    """Take the annotations of an event, to be looked at later. Events about anything else are ignored."""
    served = service_of(request)
    served.galleries.path(gallery)
    body = await _body(request)
    async with served.parsing:  # masks are many numbers
        try:
            said = await anyio.to_thread.run_sync(heard, body)
        except EventError as error:
            raise Problem(422, str(error), field="body") from error
    key: Key = request.state.key
    for one in said:
        if one.changes:
            backend_of(request).annotations.take(
                Statement(gallery, one.id, one.image, client_of(request), one.is_normal, one.drawn, key.name, one.note)
            )
    return {"annotations": [{"id": one.id, "outcome": one.outcome} for one in said]}


async def _body(request: Request) -> dict[str, Any]:
    """Return the JSON object of a body. Raises Problem (422)."""
    served = service_of(request)
    text = await request.body()
    async with served.parsing:
        try:
            body = await anyio.to_thread.run_sync(parse_json, text, served.settings.json_elements)
        except JsonError as error:
            raise Problem(422, str(error), field="body") from error
    if not isinstance(body, dict):
        raise Problem(422, "the body is no JSON object", field="body")
    return body


def _controls(body: dict[str, Any], name: str, gallery: str) -> Controls:
    """Return the tags of a labeling config. Raises Problem (422), whose words Label Studio does not show."""
    config = body.get(name)
    try:
        if not isinstance(config, str):
            raise ConfigError(f"there is no labeling config in {name!r}")
        return controls_of(config)
    except ConfigError as error:
        log.warning("Label Studio: gallery %s: %s", gallery, error)
        raise Problem(422, str(error), field=name) from error


def _tasks(body: dict[str, Any], controls: Controls) -> list[Task]:
    """Return the tasks of a request. Raises Problem (422)."""
    tasks = body.get("tasks")
    if not isinstance(tasks, list) or not 0 < len(tasks) <= LABEL_TASKS:
        raise Problem(422, f"`tasks` is no list of 1 to {LABEL_TASKS:,} tasks", field="tasks")
    return [_task(task, controls, f"tasks[{number}]") for number, task in enumerate(tasks)]


def _task(task: Any, controls: Controls, place: str) -> Task:
    if not isinstance(task, dict) or not isinstance(task.get("data"), dict) or not isinstance(task.get("id"), int):
        raise Problem(422, f"{place} is no task with an `id` and `data`", field=place)
    image = task["data"].get(controls.key)
    return Task(task["id"], image if isinstance(image, str) else None)
