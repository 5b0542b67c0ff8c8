"""Every route checks the key before any of the body is read."""

import socket

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.routing import Route

from spade_index.server.access import ReadRoute
from spade_index.server.app import ROUTERS

from helpers.serving import Server
from helpers.waiting import PATIENCE

READER, WRITER = "reader-0123456789", "writer-0123456789"
# Whoever can reach the service may see its page, the description of its routes, and whether it lives.
OPEN = {
    "/",
    "/docs",
    "/docs.css",
    "/icon.svg",
    "/openapi.json",
    "/page.css",
    "/page.js",
    "/service.js",
    "/shown.js",
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
}
PLACES = {"gallery": "plain", "model": "plain", "id": "nothing", "version": "1"}


def routes() -> list[tuple[str, str, Route]]:
    """Method, path and route of everything that the routers serve."""
    found = [route for router in ROUTERS for route in router.routes if isinstance(route, Route | APIRoute)]
    return [(method, route.path.format(**PLACES), route) for route in found for method in sorted(route.methods or [])]


@pytest.fixture(scope="module")
def locked(_root):
    """A service with two keys that nothing changes."""
    server = Server(_root, keys=f"{READER} plain read; {WRITER} other write")
    yield server
    server.stop()


def status_of_head(server: Server, method: str, path: str, key: str | None = None) -> int:
    """The status of the answer to a request's head, which announces a body that never comes."""
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
    described = locked.http.get("/openapi.json").json()["paths"]
    served = {route.path for _, _, route in routes()}
    assert set(described) <= served
    app_routes = {route.path for route in locked.app.routes if isinstance(route, Route)}
    assert app_routes - served <= {"/openapi.json"}


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
        ("DELETE", "/v1/jobs/nothing"),
        ("POST", "/v1/galleries/plain/images"),
        ("POST", "/v1/galleries/plain/remove"),
        ("POST", "/v1/galleries/plain/restore"),
        ("POST", "/v1/jobs/nothing/resume"),
    ]


def test_a_router_passes_its_check_on_to_a_new_route() -> None:
    router = APIRouter(route_class=ReadRoute)

    @router.post("/new")
    def new(body: dict[str, str]) -> None:
        """A route whose author thinks of no key."""

    assert all(isinstance(route, ReadRoute) for route in router.routes)
