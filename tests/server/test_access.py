"""Every route checks the key before any of the body is read."""

import socket
from collections.abc import Iterable, Iterator

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Route

from spade_index.server.access import ReadRoute
from spade_index.server.app import ROUTERS

from helpers.serving import Server
from helpers.waiting import PATIENCE

READER, WRITER = "reader-0123456789", "writer-0123456789"
# Routes without a key: the page, the description of the routes, and the health checks.
OPEN = {
    "/",
    "/audit.js",
    "/de.json",
    "/docs",
    "/docs.css",
    "/drift.js",
    "/en.json",
    "/feedback.js",
    "/kinds.js",
    "/known.js",
    "/history.js",
    "/icon.svg",
    "/language.js",
    "/list.js",
    "/openapi.json",
    "/page.css",
    "/page.js",
    "/preview.js",
    "/service.js",
    "/shown.js",
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
}
PLACES = {"gallery": "plain", "model": "plain", "id": "nothing", "version": "1", "number": "1"}


def routes() -> list[tuple[str, str, Route]]:
    """Return the method, path and route of everything that the routers serve."""
    found = [route for router in ROUTERS for route in router.routes if isinstance(route, Route | APIRoute)]
    return [(method, route.path.format(**PLACES), route) for route in found for method in sorted(route.methods or [])]


def flattened(routes: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    """Yield all routes: later versions of FastAPI keep an included router as one route, earlier ones copy its own."""
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is None:
            yield route
        else:
            yield from flattened(included.routes)


@pytest.fixture(scope="module")
def locked(_root):
    """A service with a read key and a write key, which no test changes."""
    server = Server(_root, keys=f"{READER} plain read; {WRITER} other write")
    yield server
    server.stop()


def status_of_head(server: Server, method: str, path: str, key: str | None = None) -> int:
    """Return the status of the answer to the head of a request, whose body is announced and never sent."""
    head = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", "Content-Length: 100"]
    head += [f"Authorization: Bearer {key}"] if key else []
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode())
        answer = connection.recv(100)
    return int(answer.split()[1])


def test_routes_without_a_key_are_the_open_ones() -> None:
    assert {path for _, path, route in routes() if not isinstance(route, ReadRoute)} == OPEN - {"/openapi.json"}
    assert len(routes()) > 40


def test_the_application_serves_no_other_routes(locked: Server) -> None:
    served = list(flattened(locked.app.routes))
    unguarded = [route for route in served if not isinstance(route, ReadRoute)]
    assert all(isinstance(route, Route) and route.path in OPEN for route in unguarded)  # a mount is no Route
    assert {route.path for route in served} == {route.path for _, _, route in routes()} | {"/openapi.json"}
    assert set(locked.http.get("/openapi.json").json()["paths"]) <= {route.path for route in served}


def test_a_router_that_is_included_on_its_own_is_seen() -> None:
    app, router = FastAPI(openapi_url=None, docs_url=None, redoc_url=None), APIRouter(prefix="/new")
    router.add_api_route("/forgotten", lambda: None, include_in_schema=False)
    app.include_router(router)
    assert [route.path for route in flattened(app.routes)] == ["/new/forgotten"]


@pytest.mark.parametrize(
    ("method", "path"), [(m, p) for m, p, route in routes() if isinstance(route, ReadRoute)], ids=str
)
def test_without_a_key_the_head_alone_is_refused(locked: Server, method: str, path: str) -> None:
    assert status_of_head(locked, method, path) == 401
    assert status_of_head(locked, method, path, "unknown-0123456789") == 401


WRITES = [(m, p) for m, p, route in routes() if isinstance(route, ReadRoute) and route.writes]
OF_A_GALLERY = [(m, p) for m, p, route in routes() if isinstance(route, ReadRoute) and "plain" in p]


@pytest.mark.parametrize(("method", "path"), WRITES, ids=str)
def test_a_key_that_may_only_read_changes_nothing(locked: Server, method: str, path: str) -> None:
    assert status_of_head(locked, method, path, READER) == 403


@pytest.mark.parametrize(("method", "path"), OF_A_GALLERY, ids=str)
def test_a_key_of_another_gallery_is_refused(locked: Server, method: str, path: str) -> None:
    assert status_of_head(locked, method, path, WRITER) == 403


def test_the_routes_that_change_something_are_these() -> None:
    assert sorted(WRITES) == [
        ("DELETE", "/v1/galleries/plain/feedback"),
        ("DELETE", "/v1/jobs/nothing"),
        ("POST", "/label-studio/plain/webhook"),
        ("POST", "/v1/galleries/plain/feedback"),
        ("POST", "/v1/galleries/plain/images"),
        ("POST", "/v1/galleries/plain/reload"),
        ("POST", "/v1/galleries/plain/remove"),
        ("POST", "/v1/galleries/plain/restore"),
        ("POST", "/v1/jobs/nothing/resume"),
    ]


def test_a_read_key_may_send_a_body_to_these_routes_only() -> None:
    changing = {path for method, path, route in routes() if method not in ("GET", "HEAD") and not route.writes}
    assert changing == {
        "/label-studio/plain/predict",
        "/label-studio/plain/setup",
        "/v1/galleries/plain/query",
        "/v1/galleries/plain/score-map",
        "/v1/models/plain:predict",
        "/v1/query",
        "/v2/models/plain/infer",
        "/v2/models/plain/versions/1/infer",
        "/v2/repository/index",
    }


def test_a_router_passes_its_check_on_to_a_new_route() -> None:
    router = APIRouter(route_class=ReadRoute)

    @router.post("/new")
    def new(body: dict[str, str]) -> None:
        """Take a body; the author of this route forgot the key."""

    assert all(isinstance(route, ReadRoute) for route in router.routes)
