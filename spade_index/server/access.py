"""Authorisation of routes: API keys are checked before any of the body is read.

FastAPI reads and parses a declared body before it calls dependencies. So the check is in the class of the routes: a
router names it once, for all its handlers.

    read = APIRouter(prefix="/v1", route_class=ReadRoute)
"""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute

from .keys import ANYONE, Key
from .problems import Problem
from .service import service_of

GALLERY_PARAMETERS = ("gallery", "model")  # of paths; galleries are the models of the Open Inference Protocol


class ReadRoute(APIRoute):
    """A route that needs a key which may read the gallery in its path; without one there, any known key."""

    writes = False
    streams_body = False  # to the disk as it comes; others hold their body in memory, within smaller limits

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, behind the check of the key. It raises Problem (401, 403)."""
        handle = super().get_route_handler()

        async def checked(request: Request) -> Response:
            galleries = [request.path_params[name] for name in GALLERY_PARAMETERS if name in request.path_params]
            request.state.key = permitted(request, galleries[0] if galleries else None, write=self.writes)
            return await handle(request)

        return checked


class WriteRoute(ReadRoute):
    """A route that needs a key which may change the gallery in its path."""

    writes = True


class AddRoute(WriteRoute):
    """A route that writes its body to the disk as it comes."""

    streams_body = True


def permitted(request: Request, gallery: str | None, *, write: bool) -> Key:
    """Return the request's key if it may read (or change) a gallery. Raises Problem (401, 403)."""
    keys = service_of(request).keys
    key = keys.of(request.headers) if keys else ANYONE
    if not key.allows(gallery, write):
        raise Problem(403, f"this API key may not {'change' if write else 'read'} {gallery or 'that'}")
    return key


def key_of(request: Request) -> Key:
    """Return the key that the route has checked."""
    key: Key = request.state.key
    return key


RequestKey = Annotated[Key, Depends(key_of)]
