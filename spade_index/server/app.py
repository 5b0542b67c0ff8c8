"""Create the ASGI application: its routes, error handlers and middleware."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

import anyio
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from spade_index.errors import SpadeIndexError
from spade_index.method.pixel_search import Elsewhere

from . import docs, kserve1, page, v1, v1_audit, v1_changes, v1_feedback, v1_results, v1_routed, v2, v2_models
from .access import ReadRoute
from .galleries import LoadBackbone, backbone_of
from .keys import Keys
from .label_studio import routes as label_studio
from .label_studio.backend import Backend
from .logs import log
from .metrics import MEDIA_TYPE
from .middleware import Limits
from .problems import InvalidFields, as_problem, problem_response
from .service import Service, service_of
from .settings import ServeSettings
from .verdicts import Outlet

ABOUT = (
    "SPADE at scale: send an image, get a verdict, a score map and the evidence. Errors are RFC 9457 problem details."
)


figures = APIRouter(route_class=ReadRoute, include_in_schema=False)

ROUTERS = (
    v1.router,
    v1_routed.router,
    v1_results.router,
    v1_audit.router,
    v1_changes.adding,
    v1_changes.changing,
    v1_changes.reading,
    v1_feedback.saying,
    v1_feedback.reading,
    v1_feedback.undoing,
    kserve1.router,
    label_studio.reading,
    label_studio.changing,
    v2.health,
    v2_models.router,
    v2_models.asking,
    v2.router,
    docs.router,
    page.router,
    figures,
)


def create_app(
    settings: ServeSettings,
    keys: Keys,
    load: LoadBackbone = backbone_of,
    elsewhere: Elsewhere | None = None,
    outlet: Outlet | None = None,
) -> FastAPI:
    """Create the ASGI application that serves all galleries under a root.

    `load` makes the backbone of a gallery, and `elsewhere` searches maps, if not this process.
    Verdicts go to the `outlet`, which stays open until the service has stopped.
    Raises InputError if there is no such root.
    """
    service = Service(settings, keys, load, elsewhere, outlet)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await app.state.label_studio.stop()
            await anyio.to_thread.run_sync(service.stop)

    app = FastAPI(
        title="spade_index",
        version=version("spade_index"),
        description=ABOUT,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.state.label_studio = Backend(service)
    for router in ROUTERS:
        app.include_router(router)
    root = service.galleries.root

    async def on_error(request: Request, error: Exception) -> Response:
        if isinstance(error, RequestValidationError):
            error = InvalidFields(error.errors())
        problem = as_problem(error, root)
        if problem.status_code >= 500 and not isinstance(error, HTTPException):
            log.error("request %s failed", request.state.request_id, exc_info=error)
        return problem_response(problem, request.url.path, request.state.request_id)

    for kind in (HTTPException, RequestValidationError, SpadeIndexError):
        app.add_exception_handler(kind, on_error)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "X-Api-Key", "Content-Type", "X-Request-Id"],
            expose_headers=["X-Request-Id", "X-Score", "X-Anomalous", "X-Snapshot", "Location", "Retry-After"],
        )
    app.add_middleware(Limits, settings=settings, metrics=service.metrics, root=root)
    return app


@figures.get("/metrics")
def metrics(request: Request) -> Response:
    """Return what the service measures, for Prometheus."""
    return Response(service_of(request).metrics.text(), media_type=MEDIA_TYPE)
