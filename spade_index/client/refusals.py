"""Answers that are errors, as exceptions."""

import time
from email.utils import parsedate_to_datetime

import httpx

from spade_index.errors import ServiceError


def error_of(response: httpx.Response) -> ServiceError:
    """Return an answer that is an error as an exception; a proxy before the service may have its own errors."""
    request, status = response.request, response.status_code
    try:
        problem = response.json()
        detail = str(problem["detail"])
        fields = {one["field"]: one["detail"] for one in problem.get("errors", [])}
    except (ValueError, TypeError, KeyError, AttributeError):
        detail, fields = response.reason_phrase or "an answer that is not of spade_index", {}
        if response.has_redirect_location:
            detail = f"the service is at {response.headers['Location']}"
    id = response.headers.get("X-Request-Id")
    where = f"{request.method} {request.url.copy_with(query=None)}: {status}" + (f", request {id}" if id else "")
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
    except ValueError:
        return None
