"""Authorisation of routes: API keys are checked before any of the body is read.

FastAPI reads and parses a declared body before it calls dependencies. So the check is in the class of the routes: a
router names it once, for all its handlers.

    read = APIRouter(prefix="/v1", route_class=ReadRoute)
"""

from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin

from fastapi import Depends, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from spade_index.exact import JsonError, flag, number, whole

from .json_bodies import parse_json
from .keys import ANYONE, Key
from .problems import InvalidFields, Problem
from .service import service_of

READERS: dict[type, Callable[[str], object]] = {bool: flag, int: whole, float: number}
SINGLE_HEADERS = ("Content-Type", "Content-Encoding", "Inference-Header-Content-Length")
GALLERY_PARAMETERS = ("gallery", "model")  # of paths; galleries are the models of the Open Inference Protocol


class ReadRoute(APIRoute):
    """A route that needs a key which may read the gallery in its path; without one there, any known key."""

    writes = False
    streams_body = False  # to the disk as it comes; others hold their body in memory, within smaller limits
    names_images = False  # the body is JSON that names images, which takes little

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, behind the checks of key and parameters. It raises Problem (401, 403, 415, 422)."""
        handle = super().get_route_handler()
        known = dict(_query_parameters(self.dependant))
        of_path = {parameter.alias: parameter.field_info for parameter in self.dependant.path_params}

        async def checked(request: Request) -> Response:
            """Answer a request that may be answered. Raises Problem (401, 403, 415, 422)."""
            galleries = [request.path_params[name] for name in GALLERY_PARAMETERS if name in request.path_params]
            request.state.key = permitted(request, galleries[0] if galleries else None, write=self.writes)
            require_known_parameters(request, known)
            for name, text in request.path_params.items():
                if name in of_path and (said := _misspelling(of_path[name], text)) is not None:
                    raise Problem(422, said, field=name)
            require_single_headers(request)
            if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
                raise Problem(415, "compressed requests are not supported", field="Content-Encoding")
            return await handle(ExactRequest(request.scope, request.receive))

        return checked


class ExactRequest(Request):
    """A request whose JSON has no name twice, no NaN, and a limited number of elements."""

    async def json(self) -> Any:
        """Parse the body. Raises Problem (422)."""
        try:
            return parse_json(await self.body(), service_of(self).settings.json_elements)
        except JsonError as error:
            raise Problem(422, str(error), field="body") from error


class AskRoute(ReadRoute):
    """A route whose body is JSON, which takes little."""

    names_images = True


class WriteRoute(ReadRoute):
    """A route that needs a key which may change the gallery in its path."""

    writes = True
    names_images = True


class AddRoute(WriteRoute):
    """A route that writes its body to the disk as it comes."""

    streams_body = True
    names_images = False


def permitted(request: Request, gallery: str | None, *, write: bool) -> Key:
    """Return the request's key if it may read (or change) a gallery. Raises Problem (401, 403)."""
    keys = service_of(request).keys
    require_single_headers(request, ("Authorization", "X-Api-Key"))
    key = keys.of(request.headers) if keys else ANYONE
    if not key.allows(gallery, write):
        asked = any(name in request.path_params for name in GALLERY_PARAMETERS)  # for that gallery, by its name
        raise Problem(403, f"this API key may not {'change' if write else 'read'} {gallery if asked else 'that'}")
    return key


def require_single_headers(request: Request, names: Sequence[str] = SINGLE_HEADERS) -> None:
    """Raise Problem (400) for a header that says how to read a request, and is there twice."""
    for name in names:
        if len(request.headers.getlist(name)) > 1:
            raise Problem(400, "give it once", field=name)


def require_known_parameters(request: Request, known: Mapping[str, FieldInfo]) -> None:
    """Raise Problem (422) for a query parameter that the route does not have, that is misspelt, or there too often."""
    given = request.query_params.multi_items()
    names = [name for name, _ in given]
    for name in names:
        if name not in known:
            there = f"there are {', '.join(sorted(known))}" if known else "there is none"
            raise Problem(422, f"unknown parameter {name[:100]!r}: {there}", field=name[:100])
        if names.count(name) > 1 and not _is_repeatable(known[name]):
            raise Problem(422, f"parameter {name!r} is given more than once", field=name)
    if any(_misspelling(known[name], text) for name, text in given):  # others are named with them
        raise InvalidFields([error for name, text in given for error in _errors(known[name], name, text)])


def _is_repeatable(parameter: FieldInfo) -> bool:
    """Return whether a parameter is a tuple: each time that it is given, it adds an item."""
    return get_origin(parameter.annotation) is tuple


def _misspelling(parameter: FieldInfo, text: str) -> str | None:
    """Return what is wrong with the spelling of a number or a flag (see `exact`). Pydantic takes more: 1_0, yes."""
    kinds = {parameter.annotation, *get_args(parameter.annotation)}
    try:
        for kind, read in READERS.items():
            if kind in kinds:
                read(text)
    except ValueError as error:
        return str(error)
    return None


def _errors(parameter: FieldInfo, name: str, text: str) -> list[Any]:
    """Return all that is wrong with a parameter, as pydantic tells it."""
    if (said := _misspelling(parameter, text)) is not None:
        return [{"loc": ("query", name), "msg": said}]
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(Annotated[parameter.annotation, parameter])  # type: ignore[arg-type]
        adapter.validate_python([text] if _is_repeatable(parameter) else text)
    except ValidationError as error:
        return [{"loc": ("query", name), "msg": found["msg"]} for found in error.errors()]
    return []


def _query_parameters(dependant: Dependant) -> Iterator[tuple[str, FieldInfo]]:
    """Yield the query parameters of a route and of what it depends on, by their names."""
    yield from ((parameter.alias, parameter.field_info) for parameter in dependant.query_params)
    for below in dependant.dependencies:
        yield from _query_parameters(below)


def key_of(request: Request) -> Key:
    """Return the key that the route has checked."""
    key: Key = request.state.key
    return key


RequestKey = Annotated[Key, Depends(key_of)]
