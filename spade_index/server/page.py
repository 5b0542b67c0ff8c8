"""Serve the page at `/`: a few static files. A browser asks each time whether they have changed.

Starlette's StaticFiles is not used: its entity tags are made of a file's time and size, which an update from a
reproducible build can leave unchanged; and a mount at `/` would take unknown paths, and be one route in the metrics.
"""

import hashlib
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request, Response

FOLDER = Path(__file__).parent / "page"
FILES = {  # by path: file and media type
    "/": ("index.html", "text/html; charset=utf-8"),
    "/audit.js": ("audit.js", "text/javascript; charset=utf-8"),
    "/de.json": ("de.json", "application/json"),
    "/drift.js": ("drift.js", "text/javascript; charset=utf-8"),
    "/en.json": ("en.json", "application/json"),
    "/feedback.js": ("feedback.js", "text/javascript; charset=utf-8"),
    "/history.js": ("history.js", "text/javascript; charset=utf-8"),
    "/kinds.js": ("kinds.js", "text/javascript; charset=utf-8"),
    "/known.js": ("known.js", "text/javascript; charset=utf-8"),
    "/language.js": ("language.js", "text/javascript; charset=utf-8"),
    "/list.js": ("list.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/preview.js": ("preview.js", "text/javascript; charset=utf-8"),
    "/shown.js": ("shown.js", "text/javascript; charset=utf-8"),
    "/service.js": ("service.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}

router = APIRouter()


@cache
def _read(name: str) -> tuple[bytes, str]:
    """Return a file of the page and its entity tag."""
    data = (FOLDER / name).read_bytes()
    return data, f'"{hashlib.sha256(data).hexdigest()[:32]}"'


def _route(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def page_file(request: Request) -> Response:
        data, tag = _read(name)
        headers = {"ETag": tag, "Cache-Control": "no-cache"}  # the service may have been updated
        known = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
        if tag in known or known == ["*"]:
            return Response(status_code=304, headers=headers)
        return Response(data, headers=headers, media_type=media_type)

    return page_file


for path, (name, media_type) in FILES.items():
    router.add_route(path, _route(name, media_type), methods=["GET"], include_in_schema=False)
