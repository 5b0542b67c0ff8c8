"""Errors as RFC 9457 problem details: what went wrong and which field is at fault, without internals."""

import os
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from spade_index.errors import (
    BackboneError,
    ClusterError,
    GalleryError,
    GalleryLocked,
    GalleryNotFound,
    InputError,
    RemoteError,
    SpadeIndexError,
    StorageError,
    UnknownImage,
)
from spade_index.shortage import is_shortage

from .limits import DETAIL_LENGTH, ERRORS

MEDIA_TYPE = "application/problem+json"
STATUS: dict[type[SpadeIndexError], int] = {  # the first that fits
    GalleryNotFound: 404,
    UnknownImage: 404,
    GalleryLocked: 409,
    StorageError: 503,
    RemoteError: 503,
    ClusterError: 503,
    GalleryError: 500,
    BackboneError: 500,
    InputError: 422,
}
FOLDERS = re.compile(r"(?<![\w./])/(?:[^\s/:;,'\"`()]+/)+")  # of an absolute path
LOCKED_SECONDS = 5  # after which it may be worth trying again


class ClientGone(Exception):
    """The client has disconnected."""


class Problem(HTTPException):
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        field: str | None = None,
        retry_after: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """`field` is the one of the request at fault, `retry_after` in seconds."""
        headers = dict(headers or {})
        if retry_after is not None:
            headers["Retry-After"] = str(max(1, round(retry_after)))
        super().__init__(status, detail, headers)
        self.fields = [{"field": field, "detail": detail}] if field else []


class InvalidFields(Problem):
    """An answer to a request with invalid parameters."""

    def __init__(self, errors: Sequence[Any]) -> None:
        """`errors` are pydantic's: `loc` is where in the request, `msg` what is wrong."""
        fields = [
            {"field": _field(error["loc"][1:] or error["loc"]), "detail": str(error["msg"])[:DETAIL_LENGTH]}
            for error in errors[:ERRORS]
        ]
        super().__init__(422, "; ".join(f"{found['field']}: {found['detail']}" for found in fields))
        self.fields = fields


def _field(place: Sequence[str | int]) -> str:
    """Return a place in a request: `ids[3]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def as_problem(error: BaseException, root: str) -> Problem:
    """Return an error as a client sees it; unforeseen ones have no details. Paths begin below `root`."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        return Problem(error.status_code, str(error.detail), headers=dict(error.headers or {}))
    for kind, status in STATUS.items():
        if isinstance(error, kind):
            detail = without_folders(" ".join(str(error).split()), root)
            return Problem(status, detail, retry_after=LOCKED_SECONDS if status in (409, 503) else None)
    if is_shortage(error):
        return Problem(503, "the service is short of disk space, memory, threads or open files", retry_after=5)
    return Problem(500, "the service has failed; its log tells why, by the request id")


def without_folders(text: str, root: str) -> str:
    """Return a message whose paths begin below `root`; of other paths only the last part is left."""
    return FOLDERS.sub("", text.replace(f"{root}/", "").replace(root, os.path.basename(root)))


def cut(text: str) -> str:
    """Return a text of limited length: what a client has sent may be part of it."""
    return text if len(text) <= DETAIL_LENGTH else f"{text[: DETAIL_LENGTH - 1]}…"


def _naming(problem: Problem) -> str:
    """Return a detail that names the field at fault, where nothing else of an answer does."""
    field = problem.fields[0]["field"] if problem.fields else ""
    named = field.lower() in problem.detail.lower() or not field.isprintable()
    return problem.detail if named else f"{field}: {problem.detail}"


def problem_response(problem: Problem, path: str, request_id: str) -> JSONResponse:
    """Return a problem as the answer to a request for `path`."""
    headers, detail = dict(problem.headers or {}), cut(problem.detail)
    if path.startswith("/v2"):  # as the Open Inference Protocol says
        return JSONResponse({"error": cut(_naming(problem))}, problem.status_code, headers)
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status_code).phrase,
        "status": problem.status_code,
        "detail": detail,
        "instance": cut(path),
        "request_id": request_id,
    }
    if problem.fields:
        body["errors"] = [{name: cut(text) for name, text in field.items()} for field in problem.fields]
    return JSONResponse(body, problem.status_code, headers, MEDIA_TYPE)
