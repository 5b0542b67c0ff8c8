"""Answers that are errors, as exceptions."""

import time
from email.utils import parsedate_to_datetime

import httpx
from pydantic.dataclasses import dataclass

from spade_index.errors import ServiceError

from .answers import checked
from .arguments import shown
from .received import json_of

MOST = 1000  # characters of a line that a service tells


@dataclass(frozen=True)
class FieldProblem:
    """A field of a request, and what is wrong with it."""

    field: str
    detail: str


@dataclass(frozen=True)
class Problem:
    """What is wrong with a request (RFC 9457)."""

    detail: str
    errors: tuple[FieldProblem, ...] = ()


def error_of(response: httpx.Response) -> ServiceError:
    """Return an answer that is an error as an exception; a proxy before the service may have its own errors."""
    request, status = response.request, response.status_code
    try:
        problem = checked(Problem, json_of(response))
        detail = _line(problem.detail)
        fields = {one.field: _line(one.detail) for one in problem.errors}
    except ServiceError:
        detail, fields = response.reason_phrase or "an answer that is not of spade_index", {}
        if response.has_redirect_location:
            detail = _line(f"the service is at {response.headers['Location']}")
    id = _line(response.headers.get("X-Request-Id", "")) or None
    where = f"{request.method} {shown(request.url)}: {status}" + (f", request {id}" if id else "")
    return ServiceError(
        f"{detail} ({where})",
        status=status,
        detail=detail,
        fields=fields,
        request_id=id,
        retry_after=retry_after(response),
    )


def retry_after(response: httpx.Response) -> float | None:
    """Return the seconds that `Retry-After` asks for, in either of its forms."""
    header = response.headers.get("Retry-After", "")
    try:
        seconds = header.isascii() and header.isdigit()
        return float(header) if seconds else max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _line(text: str) -> str:
    return " ".join(text.split())[:MOST]
